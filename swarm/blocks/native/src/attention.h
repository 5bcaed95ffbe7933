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

// The slots [start, end) of what an item looks at: at most a tile.
struct Tile {
    const Item* item;
    int start, end;

    // The first that the item's tokens see, and the one after this one; `end` is not after `start` if there is none.
    static Tile first(const Item& item, int window) {
        const int oldest = window > 0 && item.position >= window ? item.position - window + 1 : 0;
        return at(item, oldest / TILE * TILE);
    }
    Tile next() const { return at(*item, start + TILE); }
    bool is_empty() const { return end <= start; }

private:
    static Tile at(const Item& item, int start) {
        const int last = item.position + item.end - item.begin;
        return {&item, start, start + TILE < last ? start + TILE : last};
    }
};

// Keys or values of one block.
template <class Number>
struct Pool {
    const Walk& walk;
    const Number* numbers;
    int block;

    // The tile's page that begins `done` slots after its start.
    const Number* page(const Tile& tile, int done) const {
        return numbers + page_of(walk, block, tile.item->pages[(tile.start + done) / PAGE], tile.item->kv_head);
    }

    // How far away the same page of the tile ahead is: memory is asked for a tile before it is needed, for heads lie
    // apart in steps that no hardware foresees.
    ptrdiff_t ahead(const Tile& tile, int done, const Tile& after) const {
        return after.start + done < after.end ? page(after, done) - page(tile, done) : 0;
    }

    // Ask for what the tile ahead has beyond the length of this one.
    void fetch_rest(const Tile& tile, const Tile& after, int size) const {
        constexpr int LINE = 64 / sizeof(Number);
        for (int done = (tile.end - tile.start) / PAGE * PAGE; after.start + done < after.end; done += PAGE)
            for (int i = 0; i < PAGE * size; i += LINE) __builtin_prefetch(page(after, done) + i, 0, 2);
    }
};

// Each row's products with the tile's keys, two pages at a time.
template <class Number>
inline void score(const Workbench& bench, const Pool<Number>& keys, const Tile& tile, const Tile& after, int size) {
    for (int done = 0; tile.start + done < tile.end; done += 2 * PAGE) {
        const Number* page = keys.page(tile, done);
        const bool has_two = tile.start + done + PAGE < tile.end;
        const ptrdiff_t jump = has_two ? keys.page(tile, done + PAGE) - page : 0;
        multiply(bench.queries, Right<Number>{page, STRIP, jump, keys.ahead(tile, done, after)}, size,
                 Result{bench.scores + done, TILE, STRIP, false}, has_two ? 2 : 1, bench.rows);
    }
    keys.fetch_rest(tile, after, size);
}

// Add the tile's values, weighed, to each row's sums.
template <class Number>
inline void add_values(const Workbench& bench, const Pool<Number>& values, const Tile& tile, const Tile& after,
                       int size) {
    const Result sums{bench.sums, static_cast<size_t>(bench.padded), STRIP, true};
    const int strips = bench.padded / STRIP;
    const float* weights[MAX_ITEM_ROWS];
    for (int done = 0; tile.start + done < tile.end; done += PAGE) {
        const Number* page = values.page(tile, done);
        const int left = tile.end - tile.start - done, count = left < PAGE ? left : PAGE;
        for (int r = 0; r < bench.rows; ++r) weights[r] = bench.scores + r * TILE + done;
        if (size == bench.padded) {
            const Right<Number> right{page, size, STRIP, values.ahead(tile, done, after)};
            multiply(weights, right, count, sums, strips, bench.rows);
        } else {  // what is left of the last strip may be anything: no one reads its sums
            for (int s = 0; s < count; ++s) convert(bench.values + s * bench.padded, page + s * size, size);
            multiply(weights, Right<float>{bench.values, bench.padded, STRIP, 0}, count, sums, strips, bench.rows);
        }
    }
    values.fetch_rest(tile, after, size);
}

inline Floats cap(Floats scores, float softcap) {
    return softcap == 0.0f ? scores : spread(softcap) * tanh(scores / spread(softcap));
}

// Turn a row's scores of the tile into weights, and scale what was summed before them.
inline void weigh(const Workbench& bench, int row, const Tile& tile, int window, float softcap) {
    float* scores = bench.scores + row * TILE;
    const int last = bench.position[row], first = window > 0 ? last - window + 1 : 0;
    const int start = tile.start, strips = (tile.end - start + STRIP - 1) / STRIP * STRIP;
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
    const Pool<Number> keys{walk, static_cast<const Number*>(walk.step.keys), block};
    const Pool<Number> values{walk, static_cast<const Number*>(walk.step.values), block};
    for (Tile tile = Tile::first(item, window); !tile.is_empty(); tile = tile.next()) {
        const Tile ahead = tile.next().is_empty() && after ? Tile::first(*after, window) : tile.next();
        score(bench, keys, tile, ahead, shape.head);
        for (int r = 0; r < bench.rows; ++r) weigh(bench, r, tile, window, shape.softcap);
        add_values(bench, values, tile, ahead, shape.head);
    }
    finish(bench, walk, item);
}

}  // namespace
}  // namespace swarm
