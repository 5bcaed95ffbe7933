// What a packed matrix holds, byte by byte: read by every kernel, written by pack.cpp alone.
//
// Panels of 16 outputs follow each other. Within one, 16 outputs x 4 bytes stand side by side (one 512-bit register,
// two 256-bit ones), so that four inputs, broadcast, meet 16 outputs at once:
//
//   BFLOAT16        for each pair of inputs        [output][2]; the input missing to a last pair is 0
//   INT8            scales, then for each group    8 x [output][4], code + 128
//   INT4            scales, then for each group    4 x [output][4], input i of the group in the low half of byte i,
//   INT4_SYMMETRIC                                 input i + 16 in the high half
//
// Scales: for each group 16 bfloat16, for INT4 followed by 16 bfloat16 minimums; together padded to 64 bytes. They are
// apart from the codes so that codes stay aligned. A symmetric 4-bit weight is scale * code - 8 * scale.
//
// Files compiled for different instruction sets include this, so all of it is static: the linker must not merge them.
#pragma once

#include "linear.h"

#include <cstring>

namespace swarm {

static inline int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Bytes of one panel's scales and minimums, and of all of it.
static inline int64_t header_bytes(Format format, int in) {
    if (format == BFLOAT16) return 0;
    return aligned(int64_t(in / GROUP) * PANEL * (format == INT4 ? 4 : 2));
}

static inline int64_t panel_bytes(Format format, int in) {
    if (format == BFLOAT16) return int64_t(in + 1) / 2 * PANEL * 4;
    return header_bytes(format, in) + int64_t(in) * PANEL / (format == INT8 ? 1 : 2);
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
