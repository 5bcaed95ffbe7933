// The kernels in plain C++: for machines without the instruction sets that the others need. Written as loops over 16
// outputs that any compiler turns into vectors. Built with -ffp-contract=off: no fused operation slips in.
#include "tiles.h"

namespace swarm {
namespace {

constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds a small float to even
constexpr float TINY = 1e-30f;          // a group below it counts as 0: 127 / amax would overflow

uint32_t bits_of(float number) {
    uint32_t bits;
    std::memcpy(&bits, &number, 4);
    return bits;
}

void quantize(const float* x, int width, int8_t* codes, float* scales, float* sums) {
    for (int group = 0; group < width / GROUP; ++group, x += GROUP, codes += GROUP) {
        uint32_t most = 0;  // of the numbers without their signs, compared as bits: a NaN is above all
        for (int i = 0; i < GROUP; ++i) {
            const uint32_t bits = bits_of(x[i]) & 0x7fffffffu;
            most = bits > most ? bits : most;
        }
        float amax;
        std::memcpy(&amax, &most, 4);
        const bool is_plain = amax >= TINY && amax <= 3.4028235e38f;
        const float factor = is_plain ? 127.0f / amax : 0.0f;
        int sum = 0;
        for (int i = 0; i < GROUP; ++i) {
            const float scaled = is_plain ? x[i] * factor : 0.0f;
            const int code = int((scaled + ROUNDER) - ROUNDER);
            codes[i] = int8_t(code);
            sum += code;
        }
        scales[group] = is_plain ? amax / 127.0f : amax < TINY ? 0.0f : widened(0x7fc0);
        sums[group] = float(sum);
    }
}

void load_bfloat16(const uint8_t* from, float* to) {
    uint16_t bits[PANEL];
    std::memcpy(bits, from, sizeof bits);
    for (int i = 0; i < PANEL; ++i) to[i] = widened(bits[i]);
}

// acc[output] += the four codes of x times those of `output` at codes[output].
void add_products(const uint8_t* codes, const int8_t* x, int shift, int mask, int offset, int32_t* acc) {
    for (int i = 0; i < PANEL; ++i) {
        int32_t sum = 0;
        for (int k = 0; k < 4; ++k) sum += (((codes[4 * i + k] >> shift) & mask) - offset) * int32_t(x[k]);
        acc[i] += sum;
    }
}

template <Format FORMAT>
void run_group(const uint8_t* header, const uint8_t* codes, const int8_t* x, float scale, float sum, float* y) {
    int32_t acc[PANEL] = {};
    float scales[PANEL], minimums[PANEL];
    for (int step = 0; step < 8; ++step) {
        if constexpr (FORMAT == INT8)
            add_products(codes + 64 * step, x + 4 * step, 0, 255, 128, acc);
        else
            add_products(codes + 64 * (step & 3), x + 4 * step, step < 4 ? 0 : 4, 15, 0, acc);
    }
    load_bfloat16(header, scales);
    if constexpr (FORMAT == INT4) load_bfloat16(header + 32, minimums);
    for (int i = 0; i < PANEL; ++i) {
        y[i] += float(acc[i]) * (scales[i] * scale);
        if constexpr (FORMAT != INT8) y[i] += (FORMAT == INT4 ? minimums[i] : -8 * scales[i]) * (scale * sum);
    }
}

template <Format FORMAT>
void run_quantized(const Tile& tile) {
    const int in = tile.weight->in, groups = in / GROUP;
    const uint8_t* packed = tile.weight->packed + tile.panel * panel_bytes(FORMAT, in);
    const size_t row = size_t(tile.row);
    const int8_t* x = tile.x->codes + row * size_t(in);
    float y[PANEL];
    load_sums(tile, 0, tile.panel, y);
    for (int group = tile.begin; group < tile.end; ++group) {
        const Place place = place_of<FORMAT>(group);
        const size_t at = row * size_t(groups) + size_t(group);
        run_group<FORMAT>(packed + place.scales, packed + place.codes, x + group * GROUP, tile.x->scales[at],
                          tile.x->sums[at], y);
    }
    store_sums(tile, 0, tile.panel, y, tile.end == groups);
}

void run_bfloat16(const Tile& tile) {
    const int in = tile.weight->in;
    const uint8_t* pairs = tile.weight->packed + tile.panel * panel_bytes(BFLOAT16, in);
    const float* x = tile.x->values + size_t(tile.row) * size_t(in);
    float y[PANEL];
    load_sums(tile, 0, tile.panel, y);
    for (int pair = tile.begin; pair < tile.end; ++pair) {
        uint32_t both[PANEL];
        std::memcpy(both, pairs + 64 * pair, sizeof both);
        const float low = x[2 * pair], high = 2 * pair + 1 < in ? x[2 * pair + 1] : 0.0f;
        for (int i = 0; i < PANEL; ++i) {
            y[i] += low * widened(uint16_t(both[i]));
            y[i] += high * widened(uint16_t(both[i] >> 16));
        }
    }
    store_sums(tile, 0, tile.panel, y, tile.end == (in + 1) / 2);
}

constexpr int WIDTH[] = {0, 1};
constexpr RunTile PLAIN[] = {nullptr, run_bfloat16}, EIGHT[] = {nullptr, run_quantized<INT8>};
constexpr RunTile FOUR[] = {nullptr, run_quantized<INT4>}, SYMMETRIC[] = {nullptr, run_quantized<INT4_SYMMETRIC>};
constexpr Tiling BFLOAT16_TILES = {1, 256, WIDTH, PLAIN, PLAIN}, INT8_TILES = {1, 32, WIDTH, EIGHT, EIGHT};
constexpr Tiling INT4_TILES = {1, 64, WIDTH, FOUR, FOUR}, SYMMETRIC_TILES = {1, 64, WIDTH, SYMMETRIC, SYMMETRIC};

void linear(const Weight& weight, const Activations& x, float* y, size_t stride, int first, int last) {
    run_linear({BFLOAT16_TILES, INT8_TILES, INT4_TILES, SYMMETRIC_TILES}, weight, x, y, stride, first, last);
}

}  // namespace

extern const Kernels PORTABLE;
const Kernels PORTABLE = {"portable", quantize, linear};

}  // namespace swarm
