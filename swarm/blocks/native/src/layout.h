// What a packed matrix holds, byte by byte: read by every kernel, written by pack.cpp alone.
//
// Panels of 16 outputs follow each other, each one run of memory from its first input to its last. Within one, 16 outputs
// x 4 bytes stand side by side (one 512-bit register, two 256-bit ones), so that four inputs, broadcast, meet 16 outputs
// at once:
//
//   BFLOAT16        for each pair of inputs        [output][2]; the input missing to a last pair is 0
//   INT8            for each two groups            2 x 16 scales, then for each of them 8 x [output][4], code + 128
//   INT4            for each group                 16 scales, 16 minimums, then 4 x [output][4], input i of the group in
//                                                  the low half of byte i, input i + 16 in the high half
//   INT4_SYMMETRIC  for each two groups            2 x 16 scales, then for each of them 4 x [output][4], as above
//
// Scales and minimums are bfloat16, 64 bytes together, so that codes stay aligned; an odd last group has those 64 bytes
// to itself. A symmetric 4-bit weight is scale * code - 8 * scale.
//
// Files compiled for different instruction sets include this, so all of it is static: the linker must not merge them.
#pragma once

#include "linear.h"

#include <cstring>

namespace swarm {

constexpr int HEADER = 64;  // bytes of scales and minimums, before the codes of the groups that share them

// Groups that share a header, and bytes of a group's codes.
static constexpr int groups_per_header(Format format) { return format == INT4 ? 1 : 2; }
static constexpr int code_bytes(Format format) { return GROUP * PANEL / (format == INT8 ? 1 : 2); }

static constexpr int64_t panel_bytes(Format format, int in) {
    if (format == BFLOAT16) return int64_t(in + 1) / 2 * PANEL * 4;
    const int64_t groups = in / GROUP, shared = groups_per_header(format);
    return groups * code_bytes(format) + (groups + shared - 1) / shared * HEADER;
}

// Where one group's scales and its codes begin, in bytes from the beginning of the panel.
struct Place {
    int64_t scales, codes;
};

template <Format FORMAT>
static inline Place place_of(int group) {
    constexpr int SHARED = groups_per_header(FORMAT), CODES = code_bytes(FORMAT);
    const int64_t header = int64_t(group / SHARED) * (HEADER + SHARED * CODES);
    return {header + group % SHARED * (PANEL * 2), header + HEADER + group % SHARED * CODES};
}

// Outputs of a panel that exist: fewer than PANEL only in the last one.
static inline int valid_outputs(const Weight& weight, int panel) {
    const int left = weight.out - panel * PANEL;
    return left < PANEL ? left : PANEL;
}

static inline float widened(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float number;
    std::memcpy(&number, &wide, 4);
    return number;
}

}  // namespace swarm
