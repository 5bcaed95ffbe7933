// Attention of tokens that share their keys, over pages, tile after tile (online softmax, arXiv:1805.02867).
//
// Why a token's result has the same bits whoever travels with it: its tiles lie at absolute positions, each of its sums
// is one chain in the order of the slots, and a tile or slot that it may not see changes nothing at all: the weight is
// exactly 0, and the factor on what was summed so far exactly 1.
#pragma once

#include "product.h"
#include "span.h"

namespace swarm {
namespace {

constexpr float UNSEEN = -1e30f;  // below every score; finite, so that differences of two are numbers

// Consecutive tokens [begin, end) of one sequence in the batch, and the key head that some of their heads look at.
struct Item {
    int begin, end, position;  // position: of the token `begin`
    const int32_t* pages;      // of the sequence
    int kv_head;
};

// The scratch of one item, cut up. Rows are (token, head of the group).
struct Workbench {
    float* keys;      // (TILE / PAGE, E, PAGE)
    float* values;    // (TILE, padded E)
    float* scores;    // (rows, TILE)
    float* sums;      // (rows, padded E)
    float* totals;    // (rows, LANES): of the weights
    float* best;      // (rows,): the largest score so far
    const float* queries[MAX_ITEM_ROWS];
    int position[MAX_ITEM_ROWS];
    int rows, padded;
};

inline void lay_out(Workbench& bench, const Walk& walk, const Item& item, float* scratch) {
    const Shape& shape = walk.shape;
    const int group = shape.heads / shape.kv_heads, width = (shape.heads + 2 * shape.kv_heads) * shape.head;
    bench.padded = padded_head(shape);
    bench.rows = (item.end - item.begin) * group;
    bench.keys = scratch;
    bench.values = bench.keys + bench.padded * TILE;
    bench.scores = bench.values + bench.padded * TILE;
    bench.sums = bench.scores + MAX_ITEM_ROWS * TILE;
    bench.totals = bench.sums + MAX_ITEM_ROWS * bench.padded;
    bench.best = bench.totals + MAX_ITEM_ROWS * 16;
    for (int r = 0; r < bench.rows; ++r) {
        const int token = item.begin + r / group, head = item.kv_head * group + r % group;
        bench.queries[r] = walk.buffers.qkv + static_cast<size_t>(token) * width + head * shape.head;
        bench.position[r] = item.position + r / group;
        bench.best[r] = UNSEEN;
    }
    std::memset(bench.sums, 0, sizeof(float) * bench.rows * bench.padded);
    std::memset(bench.totals, 0, sizeof(float) * bench.rows * LANES);
}

// One key head's keys and values in the pools of one block.
template <class Number>
struct Pools {
    const Number *keys, *values;
    size_t stride;  // from slot to slot

    Pools(const Walk& walk, const Item& item, int block) {
        const Shape& shape = walk.shape;
        stride = static_cast<size_t>(shape.kv_heads) * shape.head;
        const size_t at = static_cast<size_t>(block) * walk.step.pool_slots * stride + item.kv_head * shape.head;
        keys = static_cast<const Number*>(walk.step.keys) + at;
        values = static_cast<const Number*>(walk.step.values) + at;
    }
};

// Ask for a tile before it is needed: heads lie apart, in steps that no hardware foresees.
template <class Number>
inline void fetch_tile(const Pools<Number>& pools, const Item& item, int start, int count, int size) {
    constexpr int LINE = 64 / sizeof(Number);
    for (int s = 0; s < count; ++s) {
        const size_t slot = static_cast<size_t>(item.pages[(start + s) / PAGE]) * PAGE + s % PAGE;
        for (int e = 0; e < size; e += LINE) {
            __builtin_prefetch(pools.keys + slot * pools.stride + e, 0, 2);
            __builtin_prefetch(pools.values + slot * pools.stride + e, 0, 2);
        }
    }
}

// Bring the tile's slots [start, start + count) in: keys transposed, values widened.
template <class Number>
inline void read_tile(const Workbench& bench, const Pools<Number>& pools, const Item& item, int start, int count,
                      int size) {
    for (int done = 0; done < count; done += PAGE) {
        const size_t slot = static_cast<size_t>(item.pages[(start + done) / PAGE]) * PAGE;
        const int here = count - done < PAGE ? count - done : PAGE;
        turn_page(pools.keys + slot * pools.stride, pools.stride, here, size, bench.keys + done * size);
        for (int s = 0; s < here; ++s) {
            const Number* from = pools.values + (slot + s) * pools.stride;
            float* to = bench.values + (done + s) * bench.padded;
            int e = 0;
            for (; e + LANES <= size; e += LANES) store(to + e, load(from + e));
            for (; e < size; ++e) to[e] = widen(from[e]);
            for (; e < bench.padded; ++e) to[e] = 0.0f;
        }
    }
}

inline Floats cap(Floats scores, float softcap) {
    return softcap == 0.0f ? scores : spread(softcap) * tanh(scores / spread(softcap));
}

// Turn a row's scores of the slots [start, start + count) into weights, and scale what was summed before them.
inline void weigh(const Workbench& bench, int row, int start, int count, int window, float softcap) {
    float* scores = bench.scores + row * TILE;
    const int last = bench.position[row], first = window > 0 ? last - window + 1 : 0;
    const int strips = (count + STRIP - 1) / STRIP * STRIP;
    const bool sees_all = first <= start && start + strips - 1 <= last;
    Ints slot;
    for (int i = 0; i < LANES; ++i) slot[i] = start + i;
    Floats most = spread(bench.best[row]);
    for (int i = 0; i < strips; i += LANES, slot += LANES) {
        Floats x = cap(load(scores + i), softcap);
        if (!sees_all) x = (slot >= first) & (slot <= last) ? x : spread(-__builtin_inff());
        store(scores + i, x);
        most = larger(most, x);
    }
    const float best = largest(most), before = bench.best[row];
    Floats total = load(bench.totals + row * LANES);
    if (best != before) {
        const Floats factor = exp(spread(before - best));
        total *= factor;
        float* sums = bench.sums + row * bench.padded;
        for (int e = 0; e < bench.padded; e += LANES) store(sums + e, load(sums + e) * factor);
        bench.best[row] = best;
    }
    for (int i = 0; i < strips; i += LANES) {
        const Floats weight = exp(load(scores + i) - spread(best));
        store(scores + i, weight);
        total += weight;
    }
    store(bench.totals + row * LANES, total);
}

// Write the item's heads into `attended`, and their codes if `out` wants them.
inline void finish(const Workbench& bench, const Walk& walk, const Item& item) {
    const Shape& shape = walk.shape;
    const int group = shape.heads / shape.kv_heads, width = shape.heads * shape.head;
    for (int r = 0; r < bench.rows; ++r) {
        const int token = item.begin + r / group, head = item.kv_head * group + r % group;
        float* to = walk.buffers.attended.values + static_cast<size_t>(token) * width + head * shape.head;
        const float* from = bench.sums + r * bench.padded;
        const float factor = 1.0f / sum(load(bench.totals + r * LANES));
        int e = 0;
        for (; e + LANES <= shape.head; e += LANES) store(to + e, load(from + e) * spread(factor));
        for (; e < shape.head; ++e) to[e] = from[e] * factor;
    }
}

template <class Number>
inline void attend(const Walk& walk, const Item& item, int block, float* scratch) {
    const Shape& shape = walk.shape;
    const int window = walk.blocks[block].window, end = item.position + item.end - item.begin;
    Workbench bench;
    lay_out(bench, walk, item, scratch);
    const float* weights[MAX_ITEM_ROWS];
    for (int r = 0; r < bench.rows; ++r) weights[r] = bench.scores + r * TILE;
    const size_t padded = static_cast<size_t>(bench.padded);
    const int oldest = window > 0 && item.position >= window ? item.position - window + 1 : 0;
    const Pools<Number> pools(walk, item, block);
    const auto count_from = [end](int start) { return end - start < TILE ? end - start : TILE; };
    const int first = oldest / TILE * TILE;
    fetch_tile(pools, item, first, count_from(first), shape.head);
    for (int start = first; start < end; start += TILE) {
        const int count = count_from(start);
        if (start + TILE < end) fetch_tile(pools, item, start + TILE, count_from(start + TILE), shape.head);
        read_tile(bench, pools, item, start, count, shape.head);
        const Right keys{bench.keys, STRIP, static_cast<size_t>(shape.head) * STRIP};
        multiply(bench.queries, keys, shape.head, Result{bench.scores, TILE, STRIP, false}, (count + STRIP - 1) / STRIP,
                 bench.rows);
        for (int r = 0; r < bench.rows; ++r) weigh(bench, r, start, count, window, shape.softcap);
        multiply(weights, Right{bench.values, padded, STRIP}, count, Result{bench.sums, padded, STRIP, true},
                 bench.padded / STRIP, bench.rows);
    }
    finish(bench, walk, item);
}

}  // namespace
}  // namespace swarm
