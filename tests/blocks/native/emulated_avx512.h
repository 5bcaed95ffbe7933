// The AVX512 instructions that our kernels use, one function each, in plain C++: put before a source by `-include`, they
// let a machine with AVX2 run the kernels that are written for AVX512 with VNNI. Each does what Intel's manual
// (Software Developer's Manual, volume 2) says of its instruction, for the default rounding, to nearest even.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#pragma GCC diagnostic ignored "-Wpsabi"

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#define __AVX512DQ__ 1
#define __AVX512VNNI__ 1
#define __builtin_cpu_supports(name) 1

namespace {
namespace emulated {

template <typename Number, int COUNT>
struct Lanes {
    Number at[COUNT];

    template <typename Vector>
    explicit Lanes(const Vector& x) {
        static_assert(sizeof x == sizeof at);
        std::memcpy(at, &x, sizeof at);
    }

    template <typename Vector>
    Vector as() const {
        static_assert(sizeof(Vector) == sizeof at);
        Vector x;
        std::memcpy(&x, at, sizeof at);
        return x;
    }
};

using Floats = Lanes<float, 16>;
using Ints = Lanes<int32_t, 16>;
using Bits = Lanes<uint32_t, 16>;
using Words = Lanes<uint16_t, 32>;

template <typename Vector>
inline Vector load(const void* from) {
    Vector x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(void* to, __m512 x) { std::memcpy(to, &x, sizeof x); }

template <typename Number>
inline __m512i spread_bytes(Number number) {
    __m512i x;
    for (size_t i = 0; i < sizeof x; i += sizeof number) std::memcpy(reinterpret_cast<char*>(&x) + i, &number, sizeof number);
    return x;
}

inline __m512 spread(float number) { return (__m512)spread_bytes(number); }

// f(a, b), number by number.
template <typename Numbers, typename Vector, typename Function>
inline Vector each(Vector a, Vector b, Function f) {
    Numbers x(a), y(b);
    for (size_t i = 0; i < sizeof x.at / sizeof x.at[0]; ++i) x.at[i] = f(x.at[i], y.at[i]);
    return x.template as<Vector>();
}

inline __m512i add(__m512i a, __m512i b) { return each<Bits>(a, b, [](uint32_t x, uint32_t y) { return x + y; }); }
inline __m512i both(__m512i a, __m512i b) { return each<Bits>(a, b, [](uint32_t x, uint32_t y) { return x & y; }); }
inline __m512i largest(__m512i a, __m512i b) {
    return each<Bits>(a, b, [](uint32_t x, uint32_t y) { return x > y ? x : y; });
}
// With a NaN in either the second is returned, as by MAXPS and MINPS.
inline __m512 larger(__m512 a, __m512 b) { return each<Floats>(a, b, [](float x, float y) { return x > y ? x : y; }); }
inline __m512 smaller(__m512 a, __m512 b) { return each<Floats>(a, b, [](float x, float y) { return x < y ? x : y; }); }
inline __m512 times(__m512 a, __m512 b) { return each<Floats>(a, b, [](float x, float y) { return x * y; }); }

inline __m512 fused(__m512 a, __m512 b, __m512 c) {
    Floats x(a), y(b), z(c);
    for (int i = 0; i < 16; ++i) z.at[i] = std::fmaf(x.at[i], y.at[i], z.at[i]);
    return z.as<__m512>();
}

inline __m512 fused_less(__m512 a, __m512 b, __m512 c) { return fused(times(a, spread(-1.0f)), b, c); }

inline __m512i left(__m512i a, int bits) {
    Bits x(a);
    for (uint32_t& word : x.at) word <<= bits;
    return x.as<__m512i>();
}

inline __m512i right_words(__m512i a, int bits) {
    Words x(a);
    for (uint16_t& word : x.at) word = uint16_t(word >> bits);
    return x.as<__m512i>();
}

inline __m512i widened(__m256i a) {
    Lanes<uint16_t, 16> x(a);
    Bits y(spread_bytes(0));
    for (int i = 0; i < 16; ++i) y.at[i] = x.at[i];
    return y.as<__m512i>();
}

inline __m512 to_floats(__m512i a) {
    Ints x(a);
    Floats y(a);
    for (int i = 0; i < 16; ++i) y.at[i] = float(x.at[i]);
    return y.as<__m512>();
}

inline __m512i to_ints(__m512 a) {
    Floats x(a);
    Ints y(a);
    for (int i = 0; i < 16; ++i) {
        const bool fits = x.at[i] >= -2147483648.0f && x.at[i] < 2147483648.0f;
        y.at[i] = fits ? int32_t(std::nearbyintf(x.at[i])) : INT32_MIN;
    }
    return y.as<__m512i>();
}

inline __m128i to_bytes(__m512i a) {
    Ints x(a);
    int8_t y[16];
    for (int i = 0; i < 16; ++i) y[i] = int8_t(x.at[i] > 127 ? 127 : x.at[i] < -128 ? -128 : x.at[i]);
    return load<__m128i>(y);
}

inline __m512i dot_bytes(__m512i sum, __m512i a, __m512i b) {
    Ints total(sum);
    Lanes<uint8_t, 64> x(a);
    Lanes<int8_t, 64> y(b);
    for (int i = 0; i < 64; ++i) total.at[i / 4] += int32_t(x.at[i]) * int32_t(y.at[i]);
    return total.as<__m512i>();
}

inline int total(__m512i a) {
    Ints x(a);
    int sum = 0;
    for (int number : x.at) sum += number;
    return sum;
}

inline uint32_t most(__m512i a) {
    Bits x(a);
    uint32_t found = 0;
    for (uint32_t number : x.at) found = number > found ? number : found;
    return found;
}

}  // namespace emulated
}  // namespace

#define _mm512_add_epi32 emulated::add
#define _mm512_and_si512 emulated::both
#define _mm512_castps_si512(numbers) ((__m512i)(numbers))
#define _mm512_castsi512_ps(bits) ((__m512)(bits))
#define _mm512_cvtepi32_ps emulated::to_floats
#define _mm512_cvtepu16_epi32 emulated::widened
#define _mm512_cvtps_epi32 emulated::to_ints
#define _mm512_cvtsepi32_epi8 emulated::to_bytes
#define _mm512_dpbusd_epi32 emulated::dot_bytes
#define _mm512_fmadd_ps emulated::fused
#define _mm512_fnmadd_ps emulated::fused_less
#define _mm512_load_ps emulated::load<__m512>
#define _mm512_load_si512 emulated::load<__m512i>
#define _mm512_loadu_ps emulated::load<__m512>
#define _mm512_max_epu32 emulated::largest
#define _mm512_max_ps emulated::larger
#define _mm512_min_ps emulated::smaller
#define _mm512_mul_ps emulated::times
#define _mm512_reduce_add_epi32 emulated::total
#define _mm512_reduce_max_epu32 emulated::most
#define _mm512_set1_epi32(number) emulated::spread_bytes<int32_t>(number)
#define _mm512_set1_epi8(number) emulated::spread_bytes<int8_t>(number)
#define _mm512_set1_ps emulated::spread
#define _mm512_setzero_ps() emulated::spread(0.0f)
#define _mm512_slli_epi32 emulated::left
#define _mm512_srli_epi16 emulated::right_words
#define _mm512_store_ps emulated::store
