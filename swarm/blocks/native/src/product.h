// Small products of matrices in registers: what attention is made of.
#pragma once

#include "vector.h"

namespace swarm {
namespace {

constexpr int STRIP = 16;  // columns that are worked on together: one page of keys, or 16 numbers of a head
constexpr int PARTS = STRIP / LANES;
constexpr int MOST_ROWS = LANES == 16 ? 12 : LANES == 8 ? 6 : 2;  // sums and operands fill the registers

// A right side: numbers (depth, STRIP) `step` apart, float32 or bfloat16; further strips `jump` apart. `later`: another,
// needed soon, whose memory is asked for on the way.
template <class Number>
struct Right {
    const Number* numbers;
    ptrdiff_t step, jump;
    const Number* later;
    ptrdiff_t later_jump;

    Floats part(int i) const { return load(numbers + (i / PARTS) * jump + (i % PARTS) * LANES); }
};

// A result: rows `step` apart, strips `jump` apart. `adds`: to what is there, else to zero.
struct Result {
    float* numbers;
    size_t step, jump;
    bool adds;
};

// result[r] (+)= sum over k of left[r][k] * right[k]: one chain of fused operations for each number, in the order of k,
// whatever the tiling.
template <int ROWS, int STRIPS, class Number>
inline void multiply_tile(const float* const* left, Right<Number> right, int depth, const Result& result) {
    constexpr int WIDTH = STRIPS * PARTS;
    Floats sums[ROWS][WIDTH];
    const float* rows[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        rows[r] = left[r];
        for (int i = 0; i < WIDTH; ++i) {
            const float* old = result.numbers + r * result.step + (i / PARTS) * result.jump + (i % PARTS) * LANES;
            sums[r][i] = result.adds ? load(old) : Floats{};
        }
    }
    for (int k = 0; k < depth; ++k, right.numbers += right.step, right.later += right.step) {
        for (int i = 0; i < STRIPS; ++i) __builtin_prefetch(right.later + i * right.later_jump, 0, 2);
        if constexpr (ROWS < WIDTH) {  // whichever there are fewer of stay in registers
            Floats factors[ROWS];
            for (int r = 0; r < ROWS; ++r) factors[r] = spread(rows[r][k]);
            for (int i = 0; i < WIDTH; ++i) {
                const Floats part = right.part(i);
                for (int r = 0; r < ROWS; ++r) sums[r][i] = fma(factors[r], part, sums[r][i]);
            }
        } else {
            Floats parts[WIDTH];
            for (int i = 0; i < WIDTH; ++i) parts[i] = right.part(i);
            for (int r = 0; r < ROWS; ++r) {
                const Floats factor = spread(rows[r][k]);
                for (int i = 0; i < WIDTH; ++i) sums[r][i] = fma(factor, parts[i], sums[r][i]);
            }
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int i = 0; i < WIDTH; ++i)
            store(result.numbers + r * result.step + (i / PARTS) * result.jump + (i % PARTS) * LANES, sums[r][i]);
}

// Few rows leave registers for more strips, which hide the latency of the sums.
template <int ROWS, class Number>
inline void multiply_rows(const float* const* left, Right<Number> right, int depth, Result result, int strips) {
    constexpr int WIDE = ROWS * 2 <= MOST_ROWS ? 2 : 1;
    int done = 0;
    for (; done + WIDE <= strips; done += WIDE) {
        multiply_tile<ROWS, WIDE>(left, right, depth, result);
        right.numbers += WIDE * right.jump;
        right.later += WIDE * right.later_jump;
        result.numbers += WIDE * result.jump;
    }
    if (done < strips) multiply_tile<ROWS, 1>(left, right, depth, result);
}

// At most MOST_ROWS rows.
template <int ROWS, class Number>
inline void multiply_some(const float* const* left, const Right<Number>& right, int depth, const Result& result,
                          int strips, int rows) {
    if (rows == ROWS) return multiply_rows<ROWS>(left, right, depth, result, strips);
    if constexpr (ROWS > 1) multiply_some<ROWS - 1>(left, right, depth, result, strips, rows);
}

// Any number of rows.
template <class Number>
inline void multiply(const float* const* left, const Right<Number>& right, int depth, Result result, int strips,
                     int rows) {
    while (rows > 0) {
        const int now = rows < MOST_ROWS ? rows : MOST_ROWS;
        multiply_some<MOST_ROWS>(left, right, depth, result, strips, now);
        left += now;
        result.numbers += now * result.step;
        rows -= now;
    }
}

}  // namespace
}  // namespace swarm
