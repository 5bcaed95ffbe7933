// Float vectors as wide as the instruction set that this file is compiled for, and the functions that blocks need.
//
// Everything is in an anonymous namespace: each instruction set's objects keep their own copies, so the linker can
// never hand a machine without AVX512 code that was compiled for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

// Vectors wider than the machine's are passed differently by different compilers; none of ours leaves its file.
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace swarm {
namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

// The same anywhere in memory. Copying them with memcpy would be as right, but compilers split such copies, and a whole
// load right behind two half stores waits for both to reach the cache.
typedef float LooseFloats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t LooseHalves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

inline Floats load(const float* from) { return *reinterpret_cast<const LooseFloats*>(from); }

inline void store(float* to, Floats x) { *reinterpret_cast<LooseFloats*>(to) = x; }

// bfloat16 is the upper half of a float32.
inline Floats load(const uint16_t* from) {
#if defined(__AVX512F__)
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return (Floats)_mm512_slli_epi32(wide, 16);
#elif defined(__AVX2__)
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return (Floats)_mm256_slli_epi32(wide, 16);
#else
    const Halves x = *reinterpret_cast<const LooseHalves*>(from);
    return (Floats)(__builtin_convertvector(x, Bits) << 16);
#endif
}

// To the nearest bfloat16, ties to even; a NaN stays one.
inline void store(uint16_t* to, Floats x) {
    const Bits bits = (Bits)x;
    const Bits rounded = bits + (0x7fffu + ((bits >> 16) & 1u));
    const Bits kept = x == x ? rounded : bits | 0x400000u;
    *reinterpret_cast<LooseHalves*>(to) = __builtin_convertvector(kept >> 16, Halves);
}

inline float widen(float x) { return x; }

inline float widen(uint16_t x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

inline void narrow(float* to, float x) { *to = x; }

inline void narrow(uint16_t* to, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits = x == x ? bits + 0x7fffu + ((bits >> 16) & 1u) : bits | 0x400000u;
    *to = static_cast<uint16_t>(bits >> 16);
}

inline Floats spread(float x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_set1_ps(x);
#elif defined(__AVX2__)
    return (Floats)_mm256_set1_ps(x);
#else
    return Floats{x, x, x, x};
#endif
}

// a * b + c, rounded once where the instruction set can; never left to the compiler, which may choose per use.
inline Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

inline float fma(float a, float b, float c) {
#if defined(__AVX512F__) || defined(__AVX2__)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

// With a NaN in either, the second is returned.
inline Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
    return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

inline Floats smaller(Floats a, Floats b) {
#if defined(__AVX512F__)
    return (Floats)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Floats)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}

inline float sum(Floats x) {
    typedef float Quad __attribute__((vector_size(16)));
    Quad parts[LANES / 4];
    std::memcpy(parts, &x, sizeof x);
    for (int width = LANES / 8; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
    return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
}

inline float largest(Floats x) {
    typedef float Quad __attribute__((vector_size(16)));
    Quad parts[LANES / 4];
    std::memcpy(parts, &x, sizeof x);
    for (int width = LANES / 8; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) parts[i] = parts[i] > parts[i + width] ? parts[i] : parts[i + width];
    const float a = parts[0][0] > parts[0][2] ? parts[0][0] : parts[0][2];
    const float b = parts[0][1] > parts[0][3] ? parts[0][1] : parts[0][3];
    return a > b ? a : b;
}

// e^x to a relative error of 3e-7: e^x = 2^n e^r with |r| <= ln(2) / 2, and e^r by its series up to r^6 / 720.
// exp(0) is exactly 1; below -86 it is exactly 0, above 88 it stays at e^88; NaN stays NaN.
inline Floats exp(Floats x) {
    const Floats magic = spread(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, held in the lowest bits
    const Floats inside = smaller(spread(88.0f), larger(spread(-86.0f), x));
    const Floats shifted = fma(inside, spread(1.44269504f), magic);
    const Floats n = shifted - magic;
    Floats r = fma(n, spread(-0.693145752f), inside);  // ln(2) in two parts, the first exact in few bits
    r = fma(n, spread(-1.42860682e-6f), r);
    Floats y = fma(r, spread(1.0f / 720), spread(1.0f / 120));
    y = fma(y, r, spread(1.0f / 24));
    y = fma(y, r, spread(1.0f / 6));
    y = fma(y, r, spread(0.5f));
    y = fma(y, r, spread(1.0f));
    y = fma(y, r, spread(1.0f));
    const Floats power = (Floats)(((Bits)shifted + 127u) << 23);
    return x < spread(-86.0f) ? Floats{} : y * power;
}

// 1 - 2 / (e^2x + 1): an absolute error of 2e-7.
inline Floats tanh(Floats x) {
    return spread(1.0f) - spread(2.0f) / (exp(x + x) + spread(1.0f));
}

// x / (1 + e^-x).
inline Floats silu(Floats x) { return x / (spread(1.0f) + exp(-x)); }

// Gaussian error linear unit in its tanh form: x / 2 (1 + tanh(u)) = x / (1 + e^-2u).
inline Floats gelu(Floats x) {
    const Floats u = x * fma(x * x, spread(0.0356774081f), spread(0.797884561f));
    return x / (spread(1.0f) + exp(spread(-2.0f) * u));
}

}  // namespace
}  // namespace swarm
