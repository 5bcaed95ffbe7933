// Attention of tokens that share their keys, over pages, tile after tile (online softmax, arXiv:1805.02867).
//
// Why a token's result has the same bits whoever travels with it: its tiles lie at absolute positions, each of its sums
// is one chain in the order of the slots, and a tile or slot that it may not see changes nothing at all: the weight is
// exactly 0, and the factor on what was summed so far exactly 1.
#pragma once

#include "product.h"
#include "span.h"
#include "tokens.h"

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
    float* values;    // (PAGE, padded E), of heads that are not whole strips
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
    bench.values = scratch;
    bench.scores = bench.values + bench.padded * PAGE;
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

// What an item looks at: the slots [begin, end) of its sequence, in tiles from `begin` on.
struct Reach {
    const Item* item;
    int begin, end;

    Reach(const Item& item, int window) : item(&item), end(item.position + item.end - item.begin) {
        const int oldest = window > 0 && item.position >= window ? item.position - window + 1 : 0;
        begin = oldest / TILE * TILE;
    }
};

// Keys or values, of one block, of an item and of the next one that the same thread works on.
template <class Number>
struct Pages {
    const Walk& walk;
    const int block;
    const Number* numbers;
    const Reach &now, &next;

    const Number* page(const Reach& reach, int at) const {
        return numbers + page_of(walk, block, reach.item->pages[at / PAGE], reach.item->kv_head);
    }
    const Number* page(int at) const { return page(now, at); }

    // The page that is a tile's length further on, to be asked for now: no hardware foresees where it lies. With a
    // page asked for at each page, no more is under way than the machine keeps track of.
    const Number* later(int at) const {
        if (at + TILE < now.end) return page(at + TILE);
        const int pages = (now.end - now.begin + PAGE - 1) / PAGE * PAGE;
        const int there = next.begin + at - now.begin - (pages > TILE ? pages - TILE : 0);
        return there < next.end ? page(next, there) : page(at);
    }
};

// Each row's products with the keys of the slots [start, end), two pages at a time.
template <class Number>
inline void score(const Workbench& bench, const Pages<Number>& keys, int start, int end, int size) {
    for (int at = start; at < end; at += 2 * PAGE) {
        const bool has_two = at + PAGE < end;
        const Number *page = keys.page(at), *later = keys.later(at);
        const ptrdiff_t jump = has_two ? keys.page(at + PAGE) - page : 0;
        const ptrdiff_t later_jump = has_two ? keys.later(at + PAGE) - later : 0;
        multiply(bench.queries, Right<Number>{page, STRIP, jump, later, later_jump}, size,
                 Result{bench.scores + (at - start), TILE, STRIP, false}, has_two ? 2 : 1, bench.rows);
    }
}

// Add the values of the slots [start, end), weighed, to each row's sums.
template <class Number>
inline void add_values(const Workbench& bench, const Pages<Number>& values, int start, int end, int size) {
    const Result sums{bench.sums, static_cast<size_t>(bench.padded), STRIP, true};
    const int strips = bench.padded / STRIP;
    const float* weights[MAX_ITEM_ROWS];
    for (int at = start; at < end; at += PAGE) {
        const Number* page = values.page(at);
        const int count = end - at < PAGE ? end - at : PAGE;
        for (int r = 0; r < bench.rows; ++r) weights[r] = bench.scores + r * TILE + (at - start);
        if (size == bench.padded) {
            const Right<Number> there{page, size, STRIP, values.later(at), STRIP};
            multiply(weights, there, count, sums, strips, bench.rows);
        } else {  // what is left of the last strip may be anything: no one reads its sums
            for (int s = 0; s < count; ++s) convert(bench.values + s * bench.padded, page + s * size, size);
            const Right<float> copied{bench.values, bench.padded, STRIP, bench.values, STRIP};
            multiply(weights, copied, count, sums, strips, bench.rows);
        }
    }
}

inline Floats cap(Floats scores, float softcap) {
    return softcap == 0.0f ? scores : spread(softcap) * tanh(scores / spread(softcap));
}

// Turn a row's scores of the slots [start, end) into weights, and scale what was summed before them.
inline void weigh(const Workbench& bench, int row, int start, int end, int window, float softcap) {
    float* scores = bench.scores + row * TILE;
    const int last = bench.position[row], first = window > 0 ? last - window + 1 : 0;
    const int strips = (end - start + STRIP - 1) / STRIP * STRIP;
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

// `after`: whom this thread lets attend next, if anyone.
template <class Number>
inline void attend(const Walk& walk, const Item& item, const Item* after, int block, float* scratch) {
    const Shape& shape = walk.shape;
    const int window = walk.blocks[block].window;
    Workbench bench;
    lay_out(bench, walk, item, scratch);
    const Reach now(item, window), next(after ? *after : item, window);
    const Pages<Number> keys{walk, block, static_cast<const Number*>(walk.step.keys), now, next};
    const Pages<Number> values{walk, block, static_cast<const Number*>(walk.step.values), now, next};
    for (int start = now.begin; start < now.end; start += TILE) {
        const int end = start + TILE < now.end ? start + TILE : now.end;
        score(bench, keys, start, end, shape.head);
        for (int r = 0; r < bench.rows; ++r) weigh(bench, r, start, end, window, shape.softcap);
        add_values(bench, values, start, end, shape.head);
    }
    finish(bench, walk, item);
}

}  // namespace
}  // namespace swarm
