// Small products of float32 matrices in registers, and transposing: what attention is made of.
#pragma once

#include "vector.h"

namespace swarm {
namespace {

constexpr int STRIP = 16;  // columns that are worked on together: one page of keys, or 16 numbers of a head
constexpr int PARTS = STRIP / LANES;
constexpr int MOST_ROWS = LANES == 16 ? 12 : LANES == 8 ? 6 : 2;  // sums and operands fill the registers

// A right side: numbers (depth, STRIP) `step` apart; further strips `jump` apart.
struct Right {
    const float* numbers;
    size_t step, jump;
};

// A result: rows `step` apart, strips `jump` apart. `adds`: to what is there, else to zero.
struct Result {
    float* numbers;
    size_t step, jump;
    bool adds;
};

// result[r] (+)= sum over k of left[r][k] * right[k]: one chain of fused operations for each number, in the order of k,
// whatever the tiling.
template <int ROWS, int STRIPS>
inline void multiply_tile(const float* const* left, const Right& right, int depth, const Result& result) {
    Floats sums[ROWS][STRIPS * PARTS];
    const float* rows[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        rows[r] = left[r];
        for (int i = 0; i < STRIPS * PARTS; ++i) {
            const float* old = result.numbers + r * result.step + (i / PARTS) * result.jump + (i % PARTS) * LANES;
            sums[r][i] = result.adds ? load(old) : Floats{};
        }
    }
    const float* numbers = right.numbers;
    for (int k = 0; k < depth; ++k, numbers += right.step) {
        Floats line[STRIPS * PARTS];
        for (int i = 0; i < STRIPS * PARTS; ++i)
            line[i] = load(numbers + (i / PARTS) * right.jump + (i % PARTS) * LANES);
        for (int r = 0; r < ROWS; ++r) {
            const Floats factor = spread(rows[r][k]);
            for (int i = 0; i < STRIPS * PARTS; ++i) sums[r][i] = fma(factor, line[i], sums[r][i]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int i = 0; i < STRIPS * PARTS; ++i)
            store(result.numbers + r * result.step + (i / PARTS) * result.jump + (i % PARTS) * LANES, sums[r][i]);
}

// Few rows leave registers for more strips, which hide the latency of the sums.
template <int ROWS>
inline void multiply_rows(const float* const* left, Right right, int depth, Result result, int strips) {
    constexpr int WIDE = ROWS * 2 <= MOST_ROWS ? 2 : 1;
    int done = 0;
    for (; done + WIDE <= strips; done += WIDE) {
        multiply_tile<ROWS, WIDE>(left, right, depth, result);
        right.numbers += WIDE * right.jump;
        result.numbers += WIDE * result.jump;
    }
    if (done < strips) multiply_tile<ROWS, 1>(left, right, depth, result);
}

// At most MOST_ROWS rows.
template <int ROWS>
inline void multiply_some(const float* const* left, const Right& right, int depth, const Result& result, int strips,
                          int rows) {
    if (rows == ROWS) return multiply_rows<ROWS>(left, right, depth, result, strips);
    if constexpr (ROWS > 1) multiply_some<ROWS - 1>(left, right, depth, result, strips, rows);
}

// Any number of rows.
inline void multiply(const float* const* left, const Right& right, int depth, Result result, int strips, int rows) {
    while (rows > 0) {
        const int now = rows < MOST_ROWS ? rows : MOST_ROWS;
        multiply_some<MOST_ROWS>(left, right, depth, result, strips, now);
        left += now;
        result.numbers += now * result.step;
        rows -= now;
    }
}

// Eight rows of eight words change places with eight columns.
inline void transpose(Bits8 (&x)[8]) {
    Bits8 pairs[8], quads[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = __builtin_shufflevector(x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        pairs[i + 1] = __builtin_shufflevector(x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 2; ++j) {
            quads[i + 2 * j] = __builtin_shufflevector(pairs[i + j], pairs[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            quads[i + 2 * j + 1] = __builtin_shufflevector(pairs[i + j], pairs[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    }
    for (int i = 0; i < 4; ++i) {
        x[i] = __builtin_shufflevector(quads[i], quads[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        x[i + 4] = __builtin_shufflevector(quads[i], quads[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

// Eight words of each of the eight slots [first, first + 8) at `words`, changed over; slots from `count` on are zero.
inline void turn_words(const void* words, size_t stride, int first, int count, Bits8 (&turned)[8]) {
    const auto* from = static_cast<const uint8_t*>(words) + first * stride;
    if (first + 8 <= count) {
        for (int s = 0; s < 8; ++s) turned[s] = load_words(from + s * stride);
    } else {
        for (int s = 0; s < 8; ++s) turned[s] = first + s < count ? load_words(from + s * stride) : Bits8{};
    }
    transpose(turned);
}

// `size` numbers of each of `count` slots of a page, `stride` apart, become (size, 16); slots that are not there, zero.
inline void turn_page(const float* slots, size_t stride, int count, int size, float* turned) {
    int e = 0;
    for (; e + 8 <= size; e += 8) {
        for (int first = 0; first < STRIP; first += 8) {
            Bits8 words[8];
            turn_words(slots + e, stride * sizeof(float), first, count, words);
            for (int i = 0; i < 8; ++i) store_words(turned + (e + i) * STRIP + first, words[i]);
        }
    }
    for (; e < size; ++e)
        for (int s = 0; s < STRIP; ++s) turned[e * STRIP + s] = s < count ? slots[s * stride + e] : 0.0f;
}

// The same of bfloat16: pairs of numbers are transposed as one word, and taken apart afterwards.
inline void turn_page(const uint16_t* slots, size_t stride, int count, int size, float* turned) {
    int e = 0;
    for (; e + 16 <= size; e += 16) {
        for (int first = 0; first < STRIP; first += 8) {
            Bits8 words[8];
            turn_words(slots + e, stride * sizeof(uint16_t), first, count, words);
            for (int i = 0; i < 8; ++i) {
                store_words(turned + (e + 2 * i) * STRIP + first, words[i] << 16);
                store_words(turned + (e + 2 * i + 1) * STRIP + first, words[i] & 0xffff0000u);
            }
        }
    }
    for (; e < size; ++e)
        for (int s = 0; s < STRIP; ++s) turned[e * STRIP + s] = s < count ? widen(slots[s * stride + e]) : 0.0f;
}

}  // namespace
}  // namespace swarm
