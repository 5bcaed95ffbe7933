// The kernels for AVX512 with VNNI, whose one instruction multiplies four unsigned by four signed bytes and adds them.
//
// 8-bit weights are stored with an offset of 128, which makes them unsigned; 128 times the sum of x's codes is taken
// away afterwards. Every number in it is whole and below 2^24, so this is exact in float32, and the bits equal AVX2's.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#include "tiles.h"

#include <immintrin.h>

namespace swarm {
namespace {

constexpr uint32_t TINY_BITS = 0x0da24260;  // 1e-30: a group below it counts as 0, as 127 / amax would overflow
constexpr uint32_t INFINITE_BITS = 0x7f800000;

void quantize(const float* x, int width, int8_t* codes, float* scales, float* sums) {
    const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
    for (int group = 0; group < width / GROUP; ++group, x += GROUP, codes += GROUP) {
        const __m512 v0 = _mm512_loadu_ps(x), v1 = _mm512_loadu_ps(x + 16);
        const uint32_t bits = _mm512_reduce_max_epu32(  // of the numbers without their signs: a NaN is above all
            _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(v0), no_sign),
                             _mm512_and_si512(_mm512_castps_si512(v1), no_sign)));
        if (bits < TINY_BITS || bits >= INFINITE_BITS) {
            std::memset(codes, 0, GROUP);
            scales[group] = bits < TINY_BITS ? 0.0f : widened(0x7fc0);
            sums[group] = 0.0f;
            continue;
        }
        float amax;
        std::memcpy(&amax, &bits, 4);
        const __m512 factor = _mm512_set1_ps(127.0f / amax);
        const __m512i c0 = _mm512_cvtps_epi32(_mm512_mul_ps(v0, factor));
        const __m512i c1 = _mm512_cvtps_epi32(_mm512_mul_ps(v1, factor));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtsepi32_epi8(c0));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), _mm512_cvtsepi32_epi8(c1));
        sums[group] = float(_mm512_reduce_add_epi32(_mm512_add_epi32(c0, c1)));
        scales[group] = amax / 127.0f;
    }
}

__m512i load(const uint8_t* from) { return _mm512_load_si512(from); }

__m512i four_codes(const int8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return _mm512_set1_epi32(four);
}

__m512 sixteen_bfloat16(const uint8_t* from) {
    const __m256i bits = _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// acc[row][panel] += codes of a group times those of x, for unsigned codes.
template <int ROWS, int PANELS, Format FORMAT>
inline void add_group(const uint8_t* codes, int64_t jump, const int8_t* x, size_t width,
                      __m512i (*acc)[PANELS]) {
    constexpr int LINES = FORMAT == INT8 ? 8 : 4;
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 8
    for (int line = 0; line < LINES; ++line) {
        __m512i w[PANELS], upper[PANELS];
#pragma GCC unroll 4
        for (int panel = 0; panel < PANELS; ++panel) {
            w[panel] = load(codes + panel * jump + 64 * line);
            if constexpr (FORMAT == INT8) continue;
            upper[panel] = _mm512_and_si512(_mm512_srli_epi16(w[panel], 4), low);
            w[panel] = _mm512_and_si512(w[panel], low);
        }
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; ++row) {
            const __m512i first = four_codes(x + row * width + 4 * line);
#pragma GCC unroll 4
            for (int panel = 0; panel < PANELS; ++panel)
                acc[row][panel] = _mm512_dpbusd_epi32(acc[row][panel], w[panel], first);
            if constexpr (FORMAT == INT8) continue;
            const __m512i second = four_codes(x + row * width + 4 * line + 16);
#pragma GCC unroll 4
            for (int panel = 0; panel < PANELS; ++panel)
                acc[row][panel] = _mm512_dpbusd_epi32(acc[row][panel], upper[panel], second);
        }
    }
}

// Sums in progress, from y to registers and back. Every loop over registers is unrolled, or they would live in memory.
template <int ROWS, int PANELS>
__attribute__((always_inline)) inline void load_tile(const Tile& tile, float (*sums)[PANELS][PANEL],
                                                     __m512 (*y)[PANELS]) {
    for (int row = 0; row < ROWS; ++row)
        for (int panel = 0; panel < PANELS; ++panel) load_sums(tile, row, tile.panel + panel * tile.spacing, sums[row][panel]);
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
        for (int panel = 0; panel < PANELS; ++panel) y[row][panel] = _mm512_load_ps(sums[row][panel]);
}

template <int ROWS, int PANELS>
__attribute__((always_inline)) inline void store_tile(const Tile& tile, const __m512 (*y)[PANELS],
                                                      float (*sums)[PANELS][PANEL], bool is_last) {
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
        for (int panel = 0; panel < PANELS; ++panel) _mm512_store_ps(sums[row][panel], y[row][panel]);
    for (int row = 0; row < ROWS; ++row)
        for (int panel = 0; panel < PANELS; ++panel)
            store_sums(tile, row, tile.panel + panel * tile.spacing, sums[row][panel], is_last);
}

// y += one group's products, times the scales of weights and of x, plus the minimums times the sum of x's codes.
template <int ROWS, int PANELS, Format FORMAT>
__attribute__((always_inline)) inline void add_scaled(const uint8_t* header, int64_t jump, const float* scales,
                                                      const float* sums, size_t groups, const __m512i (*acc)[PANELS],
                                                      __m512 (*y)[PANELS]) {
#pragma GCC unroll 4
    for (int panel = 0; panel < PANELS; ++panel) {
        const __m512 scale = sixteen_bfloat16(header + panel * jump);
        const __m512 minimum = FORMAT == INT4             ? sixteen_bfloat16(header + panel * jump + 32)
                               : FORMAT == INT4_SYMMETRIC ? _mm512_mul_ps(scale, _mm512_set1_ps(-8.0f))
                                                          : _mm512_setzero_ps();
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; ++row) {
            const __m512 x_scale = _mm512_set1_ps(scales[row * groups]), x_sum = _mm512_set1_ps(sums[row * groups]);
            __m512 product = _mm512_cvtepi32_ps(acc[row][panel]);
            if constexpr (FORMAT == INT8) product = _mm512_fnmadd_ps(_mm512_set1_ps(128.0f), x_sum, product);
            y[row][panel] = _mm512_fmadd_ps(product, _mm512_mul_ps(scale, x_scale), y[row][panel]);
            if constexpr (FORMAT != INT8)
                y[row][panel] = _mm512_fmadd_ps(minimum, _mm512_mul_ps(x_scale, x_sum), y[row][panel]);
        }
    }
}

template <int ROWS, int PANELS, Format FORMAT>
void run_quantized(const Tile& tile) {
    const size_t width = size_t(tile.weight->in), groups = width / GROUP, row = size_t(tile.row);
    const int64_t panel_size = panel_bytes(FORMAT, tile.weight->in), jump = panel_size * tile.spacing;
    const uint8_t* packed = tile.weight->packed + tile.panel * panel_size;
    const int8_t* x = tile.x->codes + row * width;
    alignas(64) float sums[ROWS][PANELS][PANEL];
    __m512 y[ROWS][PANELS];
    load_tile<ROWS, PANELS>(tile, sums, y);
    for (int group = tile.begin; group < tile.end; ++group) {
        const Place place = place_of<FORMAT>(group);
        const uint8_t* codes = packed + place.codes;
        if (tile.row == 0)
            for (int panel = 0; panel < PANELS; ++panel)
                fetch_ahead<PANELS, HEADER + code_bytes(FORMAT)>(codes + panel * jump);
        __m512i acc[ROWS][PANELS] = {};
        add_group<ROWS, PANELS, FORMAT>(codes, jump, x + group * GROUP, width, acc);
        const size_t at = row * groups + size_t(group);
        add_scaled<ROWS, PANELS, FORMAT>(packed + place.scales, jump, tile.x->scales + at, tile.x->sums + at, groups, acc, y);
    }
    store_tile<ROWS, PANELS>(tile, y, sums, size_t(tile.end) == groups);
}

template <int ROWS, int PANELS>
void run_bfloat16(const Tile& tile) {
    const int in = tile.weight->in, pairs = (in + 1) / 2;
    const int64_t panel_size = panel_bytes(BFLOAT16, in), jump = panel_size * tile.spacing;
    const uint8_t* packed = tile.weight->packed + tile.panel * panel_size;
    const float* x = tile.x->values + size_t(tile.row) * size_t(in);
    const __m512i upper = _mm512_set1_epi32(int(0xffff0000));
    alignas(64) float sums[ROWS][PANELS][PANEL];
    __m512 y[ROWS][PANELS];
    load_tile<ROWS, PANELS>(tile, sums, y);
    const auto add_pair = [&](int pair, bool is_whole) __attribute__((always_inline)) {
        __m512i both[PANELS];
#pragma GCC unroll 4
        for (int panel = 0; panel < PANELS; ++panel) {
            const uint8_t* line = packed + panel * jump + 64 * int64_t(pair);
            both[panel] = load(line);
        }
#pragma GCC unroll 2
        for (int second = 0; second < 2; ++second) {
            if (second && !is_whole) break;
            __m512 w[PANELS];
#pragma GCC unroll 4
            for (int panel = 0; panel < PANELS; ++panel)
                w[panel] = _mm512_castsi512_ps(second ? _mm512_and_si512(both[panel], upper)
                                                      : _mm512_slli_epi32(both[panel], 16));
#pragma GCC unroll 16
            for (int row = 0; row < ROWS; ++row) {
                const __m512 number = _mm512_set1_ps(x[size_t(row) * size_t(in) + size_t(2 * pair + second)]);
#pragma GCC unroll 4
                for (int panel = 0; panel < PANELS; ++panel)
                    y[row][panel] = _mm512_fmadd_ps(number, w[panel], y[row][panel]);
            }
        }
    };
    const int whole = smaller(tile.end, in / 2);
    for (int pair = tile.begin; pair < whole; ++pair) add_pair(pair, true);
    if (whole < tile.end) add_pair(whole, false);
    store_tile<ROWS, PANELS>(tile, y, sums, tile.end == pairs);
}

// 32 registers: 12 rows x 2 panels of sums for bfloat16; 6 x 2 of sums and as many of whole numbers for codes.
constexpr int PLAIN_WIDTH[] = {0, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2}, WIDTH[] = {0, 4, 2, 2, 2, 2, 2};
template <int PANELS>
constexpr RunTile PLAIN[] = {nullptr,
                             run_bfloat16<1, PANELS>,
                             run_bfloat16<2, PANELS>,
                             run_bfloat16<3, PANELS>,
                             run_bfloat16<4, PANELS>,
                             run_bfloat16<5, PANELS>,
                             run_bfloat16<6, PANELS>,
                             run_bfloat16<7, PANELS>,
                             run_bfloat16<8, PANELS>,
                             run_bfloat16<9, PANELS>,
                             run_bfloat16<10, PANELS>,
                             run_bfloat16<11, PANELS>,
                             run_bfloat16<12, PANELS>};
constexpr RunTile WIDE_PLAIN[] = {nullptr,     run_bfloat16<1, 4>, run_bfloat16<2, 4>, run_bfloat16<3, 4>, PLAIN<2>[4],
                                  PLAIN<2>[5], PLAIN<2>[6],        PLAIN<2>[7],        PLAIN<2>[8],        PLAIN<2>[9],
                                  PLAIN<2>[10], PLAIN<2>[11],      PLAIN<2>[12]};
template <int PANELS, Format FORMAT>
constexpr RunTile CODED[] = {nullptr,
                             run_quantized<1, PANELS, FORMAT>,
                             run_quantized<2, PANELS, FORMAT>,
                             run_quantized<3, PANELS, FORMAT>,
                             run_quantized<4, PANELS, FORMAT>,
                             run_quantized<5, PANELS, FORMAT>,
                             run_quantized<6, PANELS, FORMAT>};

template <Format FORMAT>
constexpr RunTile WIDE_CODED[] = {nullptr,
                                  run_quantized<1, 4, FORMAT>,
                                  CODED<2, FORMAT>[2],
                                  CODED<2, FORMAT>[3],
                                  CODED<2, FORMAT>[4],
                                  CODED<2, FORMAT>[5],
                                  CODED<2, FORMAT>[6]};

template <Format FORMAT>
constexpr Tiling CODED_TILES = {6, FORMAT == INT8 ? 32 : 64, WIDTH, CODED<1, FORMAT>, WIDE_CODED<FORMAT>};
constexpr Tiling PLAIN_TILES = {12, 128, PLAIN_WIDTH, PLAIN<1>, WIDE_PLAIN};

void linear(const Weight& weight, const Activations& x, float* y, size_t stride, int first, int last) {
    run_linear({PLAIN_TILES, CODED_TILES<INT8>, CODED_TILES<INT4>, CODED_TILES<INT4_SYMMETRIC>}, weight, x, y, stride,
               first, last);
}

}  // namespace

extern const Kernels AVX512;
const Kernels AVX512 = {"avx512vnni", quantize, linear};

}  // namespace swarm
#endif
