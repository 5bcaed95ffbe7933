// Canonical weights into the layout of layout.h: for each 4 bytes of 16 outputs, a transposition.
#include "pack.h"

#include "layout.h"

namespace swarm {
namespace {

// to[step][output] = from[output][step] ^ flip, in words of T; outputs beyond `valid` become `flip`.
template <typename T>
void transpose(const T* from, size_t stride, int valid, int steps, T flip, uint8_t* packed) {
    T* to = reinterpret_cast<T*>(packed);
    for (int step = 0; step < steps; ++step, to += PANEL)
        for (int output = 0; output < PANEL; ++output)
            to[output] = output < valid ? T(from[size_t(output) * stride + size_t(step)] ^ flip) : flip;
}

// A canonical matrix from one of its outputs on; `valid` of them exist.
struct Source {
    const uint8_t* codes;
    const uint16_t *scales, *minimums;
    int in, valid;
};

void pack_pairs(const Source& from, uint8_t* packed) {
    const int in = from.in;
    if (in % 2 == 0)
        return transpose(reinterpret_cast<const uint32_t*>(from.codes), size_t(in / 2), from.valid, in / 2, 0u, packed);
    const uint16_t* numbers = reinterpret_cast<const uint16_t*>(from.codes);  // its rows are not made of whole words
    uint16_t* to = reinterpret_cast<uint16_t*>(packed);
    for (int i = 0; i < in + 1; ++i)
        for (int output = 0; output < PANEL; ++output)
            to[(i / 2 * PANEL + output) * 2 + i % 2] = output < from.valid && i < in ? numbers[int64_t(output) * in + i] : 0;
}

template <Format FORMAT>
void pack_groups(const Source& from, uint8_t* packed) {
    constexpr int WORDS = code_bytes(FORMAT) / PANEL / 4;  // of 4 bytes, an output's in a group
    const int groups = from.in / GROUP;
    for (int group = 0; group < groups; ++group) {
        const Place place = place_of<FORMAT>(group);
        uint8_t* header = packed + place.scales;
        if (group % groups_per_header(FORMAT) == 0) std::memset(header, 0, HEADER);
        transpose(from.scales + group, size_t(groups), from.valid, 1, uint16_t(0), header);
        if (FORMAT == INT4)
            transpose(from.minimums + group, size_t(groups), from.valid, 1, uint16_t(0), header + 2 * PANEL);
        transpose(reinterpret_cast<const uint32_t*>(from.codes) + group * WORDS, size_t(groups * WORDS), from.valid, WORDS,
                  FORMAT == INT8 ? 0x80808080u : 0u, packed + place.codes);
    }
}

void pack_panel(Format format, const Source& from, uint8_t* packed) {
    if (format == BFLOAT16) return pack_pairs(from, packed);
    if (format == INT8) return pack_groups<INT8>(from, packed);
    return format == INT4 ? pack_groups<INT4>(from, packed) : pack_groups<INT4_SYMMETRIC>(from, packed);
}

int64_t row_bytes(Format format, int in) { return format == BFLOAT16 ? int64_t(in) * 2 : format == INT8 ? in : in / 2; }

}  // namespace

size_t packed_bytes(Format format, int out, int in) {
    if (format < BFLOAT16 || format > INT4_SYMMETRIC || out <= 0 || in <= 0) return 0;
    if (format != BFLOAT16 && in % GROUP) return 0;
    return size_t(panels(out)) * size_t(panel_bytes(format, in));
}

void pack(Format format, int out, int in, const void* codes, const uint16_t* scales, const uint16_t* minimums,
          uint8_t* packed) {
    const int64_t groups = in / GROUP;
    for (int panel = 0; panel < panels(out); ++panel) {
        const int64_t output = int64_t(panel) * PANEL;
        const int valid = out - output < PANEL ? int(out - output) : PANEL;
        const Source from = {static_cast<const uint8_t*>(codes) + output * row_bytes(format, in),
                             scales ? scales + output * groups : nullptr,
                             minimums ? minimums + output * groups : nullptr, in, valid};
        pack_panel(format, from, packed + panel * panel_bytes(format, in));
    }
}

}  // namespace swarm
