// The kernels for AVX2 and FMA. Without them (another machine, another compiler flag) this file holds nothing.
//
// 8 bits: |w| * (x with w's sign), added in pairs; codes of x reach from -127 to 127, so a pair fits 16 bits.
// 4 bits: the group's 8 pairs are added in 16 bits too: 8 * 2 * 15 * 127 fits.
#if defined(__AVX2__) && defined(__FMA__)
#include "tiles.h"

#include <immintrin.h>

namespace swarm {
namespace {

constexpr uint32_t TINY_BITS = 0x0da24260;  // 1e-30: a group below it counts as 0, as 127 / amax would overflow
constexpr uint32_t INFINITE_BITS = 0x7f800000;

uint32_t largest(__m256i v) {
    __m128i most = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0x4e));
    most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0xb1));
    return uint32_t(_mm_cvtsi128_si32(most));
}

int total(__m256i v) {
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
}

// A group's 32 codes and their sum.
int encode(const __m256* x, float factor, int8_t* codes) {
    __m256i c[4];
    for (int i = 0; i < 4; ++i) c[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], _mm256_set1_ps(factor)));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(c[0], c[1]), _mm256_add_epi32(c[2], c[3]));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
    // Packing works within halves: put the eight runs of four back in order.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_permutevar8x32_epi32(bytes, order));
    return total(sum);
}

void quantize(const float* x, int width, int8_t* codes, float* scales, float* sums) {
    const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
    for (int group = 0; group < width / GROUP; ++group) {
        __m256 v[4];
        __m256i most = _mm256_setzero_si256();
        for (int i = 0; i < 4; ++i) {
            v[i] = _mm256_loadu_ps(x + group * GROUP + 8 * i);
            most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(v[i]), no_sign));  // a NaN is above all
        }
        const uint32_t bits = largest(most);
        if (bits < TINY_BITS || bits >= INFINITE_BITS) {
            std::memset(codes + group * GROUP, 0, GROUP);
            scales[group] = bits < TINY_BITS ? 0.0f : widened(0x7fc0);
            sums[group] = 0.0f;
            continue;
        }
        const float amax = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(int(bits))));
        sums[group] = float(encode(v, 127.0f / amax, codes + group * GROUP));
        scales[group] = amax / 127.0f;
    }
}

__m256i load(const uint8_t* from) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(from)); }

__m256i four_codes(const int8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    return _mm256_set1_epi32(four);
}

__m256 eight_bfloat16(const uint8_t* from) {
    const __m128i bits = _mm_load_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// Does nothing, but the compiler has to hold v in a register here. Left alone, GCC gathers all products before
// it adds them, and they spill.
template <typename V>
inline V kept(V v) {
    asm("" : "+x"(v));
    return v;
}

template <int ROWS>
inline void add_eights(const uint8_t* codes, const int8_t* x, size_t width, __m256i (*acc)[2]) {
    const __m256i ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi8(char(0x80));
#pragma GCC unroll 8
    for (int step = 0; step < 8; ++step)
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const __m256i w = _mm256_xor_si256(load(codes + 64 * step + 32 * half), offset), size = _mm256_abs_epi8(w);
#pragma GCC unroll 8
            for (int row = 0; row < ROWS; ++row) {
                const __m256i four = four_codes(x + row * width + 4 * step);
                const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(four, w));
                acc[row][half] = kept(_mm256_add_epi32(acc[row][half], _mm256_madd_epi16(pairs, ones)));
            }
        }
}

template <int ROWS>
inline void add_fours(const uint8_t* codes, const int8_t* x, size_t width, __m256i (*acc)[2]) {
    const __m256i ones = _mm256_set1_epi16(1), low = _mm256_set1_epi8(15);
#pragma GCC unroll 8
    for (int step = 0; step < 8; ++step) {
        const int shift = step < 4 ? 0 : 4;
        const uint8_t* line = codes + 64 * (step & 3);
        const __m256i w0 = _mm256_and_si256(_mm256_srli_epi16(load(line), shift), low);
        const __m256i w1 = _mm256_and_si256(_mm256_srli_epi16(load(line + 32), shift), low);
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; ++row) {
            const __m256i four = four_codes(x + row * width + 4 * step);
            acc[row][0] = kept(_mm256_add_epi16(acc[row][0], _mm256_maddubs_epi16(w0, four)));
            acc[row][1] = kept(_mm256_add_epi16(acc[row][1], _mm256_maddubs_epi16(w1, four)));
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row)
        for (int half = 0; half < 2; ++half) acc[row][half] = _mm256_madd_epi16(acc[row][half], ones);
}

// Sums in progress, from y to registers and back. Every loop over registers is unrolled, or they would live in memory.
template <int ROWS, int PANELS>
__attribute__((always_inline)) inline void load_tile(const Tile& tile, float (*sums)[PANELS * PANEL],
                                                     __m256 (*y)[2 * PANELS]) {
    for (int row = 0; row < ROWS; ++row)
        for (int i = 0; i < PANELS; ++i) load_sums(tile, row, tile.panel + i * tile.spacing, sums[row] + i * PANEL);
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
        for (int i = 0; i < 2 * PANELS; ++i) y[row][i] = _mm256_load_ps(sums[row] + 8 * i);
}

template <int ROWS, int PANELS>
__attribute__((always_inline)) inline void store_tile(const Tile& tile, const __m256 (*y)[2 * PANELS],
                                                      float (*sums)[PANELS * PANEL], bool is_last) {
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
        for (int i = 0; i < 2 * PANELS; ++i) _mm256_store_ps(sums[row] + 8 * i, y[row][i]);
    for (int row = 0; row < ROWS; ++row)
        for (int i = 0; i < PANELS; ++i) store_sums(tile, row, tile.panel + i * tile.spacing, sums[row] + i * PANEL, is_last);
}

// y += one group's products, times the scales of weights and of x, plus the minimums times the sum of x's codes.
template <int ROWS, int PANELS, Format FORMAT>
__attribute__((always_inline)) inline void add_scaled(const uint8_t* header, const float* scales, const float* sums,
                                                      size_t groups, const __m256i (*acc)[2], int panel,
                                                      __m256 (*y)[2 * PANELS]) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        const __m256 scale = eight_bfloat16(header + 16 * half);
        const __m256 minimum = FORMAT == INT4             ? eight_bfloat16(header + 32 + 16 * half)
                               : FORMAT == INT4_SYMMETRIC ? _mm256_mul_ps(scale, _mm256_set1_ps(-8.0f))
                                                          : _mm256_setzero_ps();
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; ++row) {
            const __m256 x_scale = _mm256_set1_ps(scales[row * groups]), product = _mm256_cvtepi32_ps(acc[row][half]);
            __m256& sum = y[row][2 * panel + half];
            sum = _mm256_fmadd_ps(product, _mm256_mul_ps(scale, x_scale), sum);
            if constexpr (FORMAT != INT8) {
                const __m256 x_sum = _mm256_mul_ps(x_scale, _mm256_set1_ps(sums[row * groups]));
                sum = _mm256_fmadd_ps(minimum, x_sum, sum);
            }
        }
    }
}

template <int ROWS, int PANELS, Format FORMAT>
void run_quantized(const Tile& tile) {
    const size_t width = size_t(tile.weight->in), groups = width / GROUP, row = size_t(tile.row);
    const int64_t panel_size = panel_bytes(FORMAT, tile.weight->in), jump = panel_size * tile.spacing;
    const uint8_t* packed = tile.weight->packed + tile.panel * panel_size;
    const int8_t* x = tile.x->codes + row * width;
    alignas(32) float sums[ROWS][PANELS * PANEL];
    __m256 y[ROWS][2 * PANELS];
    load_tile<ROWS, PANELS>(tile, sums, y);
    for (int group = tile.begin; group < tile.end; ++group) {
        const Place place = place_of<FORMAT>(group);
        const size_t at = row * groups + size_t(group);
#pragma GCC unroll 4
        for (int panel = 0; panel < PANELS; ++panel) {
            const uint8_t *codes = packed + panel * jump + place.codes, *header = packed + panel * jump + place.scales;
            if (tile.row == 0) fetch_ahead<PANELS, HEADER + code_bytes(FORMAT)>(codes);
            __m256i acc[ROWS][2] = {};
            if constexpr (FORMAT == INT8)
                add_eights<ROWS>(codes, x + group * GROUP, width, acc);
            else
                add_fours<ROWS>(codes, x + group * GROUP, width, acc);
            add_scaled<ROWS, PANELS, FORMAT>(header, tile.x->scales + at, tile.x->sums + at, groups, acc, panel, y);
        }
    }
    store_tile<ROWS, PANELS>(tile, y, sums, size_t(tile.end) == groups);
}

template <int ROWS, int PANELS>
void run_bfloat16(const Tile& tile) {
    const int in = tile.weight->in, pairs = (in + 1) / 2;
    const int64_t panel_size = panel_bytes(BFLOAT16, in), jump = panel_size * tile.spacing;
    const uint8_t* packed = tile.weight->packed + tile.panel * panel_size;
    const float* x = tile.x->values + size_t(tile.row) * size_t(in);
    const __m256i upper = _mm256_set1_epi32(int(0xffff0000));
    alignas(32) float sums[ROWS][PANELS * PANEL];
    __m256 y[ROWS][2 * PANELS];
    load_tile<ROWS, PANELS>(tile, sums, y);
    const auto add = [&](int input, int panel, __m256i w0, __m256i w1) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; ++row) {
            const __m256 number = _mm256_set1_ps(x[size_t(row) * size_t(in) + size_t(input)]);
            y[row][2 * panel] = kept(_mm256_fmadd_ps(number, _mm256_castsi256_ps(w0), y[row][2 * panel]));
            y[row][2 * panel + 1] = kept(_mm256_fmadd_ps(number, _mm256_castsi256_ps(w1), y[row][2 * panel + 1]));
        }
    };
    const auto add_pair = [&](int pair, bool is_whole) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int panel = 0; panel < PANELS; ++panel) {
            const uint8_t* line = packed + panel * jump + 64 * int64_t(pair);
            add(2 * pair, panel, _mm256_slli_epi32(load(line), 16), _mm256_slli_epi32(load(line + 32), 16));
            if (!is_whole) continue;
            const __m256i w0 = _mm256_and_si256(load(line), upper), w1 = _mm256_and_si256(load(line + 32), upper);
            add(2 * pair + 1, panel, w0, w1);
        }
    };
    const int whole = smaller(tile.end, in / 2);
    for (int pair = tile.begin; pair < whole; ++pair) add_pair(pair, true);
    if (whole < tile.end) add_pair(whole, false);
    store_tile<ROWS, PANELS>(tile, y, sums, tile.end == pairs);
}

// A row or two have too few sums to keep multipliers and memory busy: more panels at once give them more.
constexpr int PLAIN_WIDTH[] = {0, 4, 2, 2, 1, 1, 1}, WIDTH[] = {0, 4, 2, 1, 1};
constexpr RunTile PLAIN[] = {nullptr,
                             run_bfloat16<1, 1>,
                             run_bfloat16<2, 1>,
                             run_bfloat16<3, 1>,
                             run_bfloat16<4, 1>,
                             run_bfloat16<5, 1>,
                             run_bfloat16<6, 1>};
constexpr RunTile WIDE_PLAIN[] = {nullptr, run_bfloat16<1, 4>, run_bfloat16<2, 2>, run_bfloat16<3, 2>,
                                  PLAIN[4], PLAIN[5],           PLAIN[6]};
template <Format FORMAT>
constexpr RunTile CODED[] = {nullptr, run_quantized<1, 1, FORMAT>, run_quantized<2, 1, FORMAT>,
                             run_quantized<3, 1, FORMAT>, run_quantized<4, 1, FORMAT>};
template <Format FORMAT>
constexpr RunTile WIDE_CODED[] = {nullptr, run_quantized<1, 4, FORMAT>, run_quantized<2, 2, FORMAT>, CODED<FORMAT>[3],
                                  CODED<FORMAT>[4]};

template <Format FORMAT>
constexpr Tiling CODED_TILES = {4, FORMAT == INT8 ? 32 : 64, WIDTH, CODED<FORMAT>, WIDE_CODED<FORMAT>};
constexpr Tiling PLAIN_TILES = {6, 256, PLAIN_WIDTH, PLAIN, WIDE_PLAIN};

void linear(const Weight& weight, const Activations& x, float* y, size_t stride, int first, int last) {
    run_linear({PLAIN_TILES, CODED_TILES<INT8>, CODED_TILES<INT4>, CODED_TILES<INT4_SYMMETRIC>}, weight, x, y, stride,
               first, last);
}

}  // namespace

extern const Kernels AVX2;
const Kernels AVX2 = {"avx2", quantize, linear};

}  // namespace swarm
#endif
