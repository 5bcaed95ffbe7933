// Canonical weights into the layout of layout.h: for each 4 bytes of 16 outputs, a transposition.
#include "pack.h"

#include "layout.h"

namespace swarm {
namespace {

// to[step][output] = from[output][step] ^ flip, in words of T; outputs beyond `valid` become `flip`.
template <typename T>
void transpose(const T* from, size_t stride, int valid, int64_t steps, int64_t to_stride, T flip, T* to) {
    for (int64_t step = 0; step < steps; ++step, to += to_stride)
        for (int output = 0; output < PANEL; ++output)
            to[output] = output < valid ? T(from[size_t(output) * stride + size_t(step)] ^ flip) : flip;
}

// As above for an odd number of bfloat16 inputs, whose rows are not made of whole words.
void pair_up(const uint16_t* from, int in, int valid, uint16_t* to) {
    for (int64_t i = 0; i < in + in % 2; ++i)
        for (int output = 0; output < PANEL; ++output)
            to[(i / 2 * PANEL + output) * 2 + i % 2] = output < valid && i < in ? from[int64_t(output) * in + i] : 0;
}

void pack_panel(Format format, int in, int valid, const uint8_t* codes, const uint16_t* scales,
                const uint16_t* minimums, uint8_t* packed) {
    if (format == BFLOAT16 && in % 2)
        return pair_up(reinterpret_cast<const uint16_t*>(codes), in, valid, reinterpret_cast<uint16_t*>(packed));
    const int64_t header = header_bytes(format, in), groups = in / GROUP;
    const int64_t words = format == BFLOAT16 ? in / 2 : format == INT8 ? in / 4 : in / 8;  // of 4 bytes, an output
    std::memset(packed, 0, size_t(header));
    if (format != BFLOAT16)
        transpose<uint16_t>(scales, size_t(groups), valid, groups, format == INT4 ? 2 * PANEL : PANEL, 0,
                            reinterpret_cast<uint16_t*>(packed));
    if (format == INT4)
        transpose<uint16_t>(minimums, size_t(groups), valid, groups, 2 * PANEL, 0,
                            reinterpret_cast<uint16_t*>(packed) + PANEL);
    transpose<uint32_t>(reinterpret_cast<const uint32_t*>(codes), size_t(words), valid, words, PANEL,
                        format == INT8 ? 0x80808080u : 0u, reinterpret_cast<uint32_t*>(packed + header));
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
        pack_panel(format, in, valid, static_cast<const uint8_t*>(codes) + output * row_bytes(format, in),
                   scales ? scales + output * groups : nullptr, minimums ? minimums + output * groups : nullptr,
                   packed + panel * panel_bytes(format, in));
    }
}

}  // namespace swarm
