// What happens to one token on its own: norms, rotation, its place in the cache, its choice of experts.
#pragma once

#include "span.h"
#include "vector.h"

namespace swarm {
namespace {

inline float dot(const float* a, const float* b, int size) {
    Floats sums[4] = {};
    int i = 0;
    for (; i + 4 * LANES <= size; i += 4 * LANES)
        for (int j = 0; j < 4; ++j) sums[j] = fma(load(a + i + j * LANES), load(b + i + j * LANES), sums[j]);
    for (; i + LANES <= size; i += LANES) sums[0] = fma(load(a + i), load(b + i), sums[0]);
    float total = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < size; ++i) total = fma(a[i], b[i], total);
    return total;
}

// RMS norm (arXiv:1910.07467); `y` may be `x`.
inline void normalise(const float* x, const float* weight, int size, float epsilon, float* y) {
    const float factor = 1.0f / __builtin_sqrtf(dot(x, x, size) / static_cast<float>(size) + epsilon);
    int i = 0;
    for (; i + LANES <= size; i += LANES) store(y + i, load(x + i) * spread(factor) * load(weight + i));
    for (; i < size; ++i) y[i] = x[i] * factor * weight[i];
}

inline void add(float* to, const float* x, int size) {
    int i = 0;
    for (; i + LANES <= size; i += LANES) store(to + i, load(to + i) + load(x + i));
    for (; i < size; ++i) to[i] += x[i];
}

inline void add_scaled(float* to, const float* x, float factor, int size) {
    int i = 0;
    for (; i + LANES <= size; i += LANES) store(to + i, fma(load(x + i), spread(factor), load(to + i)));
    for (; i < size; ++i) to[i] = fma(x[i], factor, to[i]);
}

template <class To, class From>
inline void convert(To* to, const From* from, int size) {
    int i = 0;
    for (; i + LANES <= size; i += LANES) store(to + i, load(from + i));
    for (; i < size; ++i) narrow(to + i, widen(from[i]));
}

inline void read_hidden(const Step& step, int token, int size, float* to) {
    const size_t at = static_cast<size_t>(token) * size;
    if (step.narrow_input)
        convert(to, static_cast<const uint16_t*>(step.input) + at, size);
    else
        convert(to, static_cast<const float*>(step.input) + at, size);
}

inline void write_hidden(const Step& step, int token, int size, const float* from) {
    const size_t at = static_cast<size_t>(token) * size;
    if (step.narrow_output)
        convert(static_cast<uint16_t*>(step.output) + at, from, size);
    else
        convert(static_cast<float*>(step.output) + at, from, size);
}

// Rotary embedding (arXiv:2104.09864) of one head, the halves being the pairs; times `scale`.
inline void rotate(float* head, const float* cosines, const float* sines, int half, float scale) {
    int i = 0;
    for (; i + LANES <= half; i += LANES) {
        const Floats x = load(head + i), y = load(head + half + i);
        const Floats cosine = load(cosines + i), sine = load(sines + i);
        store(head + i, fma(x, cosine, -(y * sine)) * spread(scale));
        store(head + half + i, fma(y, cosine, x * sine) * spread(scale));
    }
    for (; i < half; ++i) {
        const float x = head[i], y = head[half + i];
        head[i] = fma(x, cosines[i], -(y * sines[i])) * scale;
        head[half + i] = fma(y, cosines[i], x * sines[i]) * scale;
    }
}

// Where one head's page of keys or values begins in its pool (span.h draws it).
inline size_t page_of(const Walk& walk, int block, int32_t page, int kv_head) {
    const size_t first = static_cast<size_t>(block) * (walk.step.pool_slots / PAGE);
    return ((first + page) * walk.shape.kv_heads + kv_head) * PAGE * walk.shape.head;
}

// A key into its slot: numbers lie a page's slots apart.
template <class Number>
inline void store_column(Number* column, const float* key, int size) {
    int e = 0;
    for (; e + LANES <= size; e += LANES) {
        Number numbers[LANES];
        store(numbers, load(key + e));
        for (int i = 0; i < LANES; ++i) column[(e + i) * PAGE] = numbers[i];
    }
    for (; e < size; ++e) narrow(column + e * PAGE, key[e]);
}

// Norm and turn the queries of one token that look at `kv_head`, and its key; put key and value into their slot.
template <class Number>
inline void place(const Walk& walk, int block, int token, int position, int32_t page, int kv_head) {
    const Shape& shape = walk.shape;
    const Block& parts = walk.blocks[block];
    const int group = shape.heads / shape.kv_heads, half = shape.head / 2, width = shape.heads + 2 * shape.kv_heads;
    float* heads = walk.buffers.qkv + static_cast<size_t>(token) * width * shape.head;
    const float* cosines = walk.step.cosines[parts.rope] + static_cast<size_t>(position) * half;
    const float* sines = walk.step.sines[parts.rope] + static_cast<size_t>(position) * half;
    for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        float* query = heads + h * shape.head;
        if (parts.query_norm) normalise(query, parts.query_norm, shape.head, shape.epsilon, query);
        rotate(query, cosines, sines, half, shape.scale);
    }
    float* key = heads + (shape.heads + kv_head) * shape.head;
    if (parts.key_norm) normalise(key, parts.key_norm, shape.head, shape.epsilon, key);
    rotate(key, cosines, sines, half, 1.0f);
    const float* value = key + shape.kv_heads * shape.head;
    const size_t at = page_of(walk, block, page, kv_head);
    store_column(static_cast<Number*>(walk.step.keys) + at + position % PAGE, key, shape.head);
    convert(static_cast<Number*>(walk.step.values) + at + position % PAGE * shape.head, value, shape.head);
}

// Let one token choose its experts (arXiv:2401.04088): the largest of its logits, whose softmax are the shares.
inline void choose(const Walk& walk, const float* router, const float* x, int32_t* choice, float* shares) {
    const Shape& shape = walk.shape;
    float logits[MOST_EXPERTS], top = 0.0f, total = 0.0f;
    bool taken[MOST_EXPERTS] = {};
    for (int e = 0; e < shape.experts; ++e) logits[e] = dot(x, router + static_cast<size_t>(e) * shape.hidden, shape.hidden);
    for (int i = 0; i < shape.chosen; ++i) {
        int best = -1;
        for (int e = 0; e < shape.experts; ++e)
            if (!taken[e] && (best < 0 || logits[e] > logits[best])) best = e;
        taken[best] = true;
        if (i == 0) top = logits[best];
    }
    for (int e = 0, i = 0; e < shape.experts; ++e) {
        if (!taken[e]) continue;
        choice[i] = e;
        shares[i] = exp(spread(logits[e] - top))[0];
        total += shares[i++];
    }
    for (int i = 0; i < shape.chosen; ++i) shares[i] /= total;
}

}  // namespace
}  // namespace swarm
