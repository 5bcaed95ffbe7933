// The way through a product, the same for every instruction set: tiles of rows under one or a few panels.
//
// A tile of several panels takes them far apart: with W of them, the panels of a call are cut into W runs, and each tile
// goes one panel on in all of them. So memory is read in W long streams, each from its beginning to its end, which one
// core reads faster than a single one, and which the machine's own prefetching follows across panels.
//
// With few rows a panel streams through once. With many, its inputs are taken a stretch at a time, so that its weights
// stay in the first cache while all rows pass over them. Sums in progress rest in y between two stretches: a float32
// comes back from memory as it went, so this changes no bit. Static, as all that is compiled more than once.
#pragma once

#include "layout.h"

namespace swarm {
namespace {

// One tile: rows [row, row + ROWS) of x under PANELS panels, `spacing` apart, over the steps [begin, end).
struct Tile {
    const Weight* weight;
    const Activations* x;
    float* y;
    size_t stride;
    int row, panel, spacing, begin, end;
};

using RunTile = void (*)(const Tile& tile);

// The tiles that one format has: for `n` rows, `narrow[n]` does one panel and `wide[n]` does `width[n]` of them.
struct Tiling {
    int rows;     // most rows of a tile
    int stretch;  // steps that share the first cache with the rows that pass; even, as groups share headers in pairs
    const int* width;
    const RunTile *narrow, *wide;
};

// Asks for the bytes that one of PANELS streams needs soon, for the first rows that pass over a panel: the others find
// them in the cache. The machine's own prefetching fetches them into its outer caches; this brings them into the first,
// which has few requests open at a time, so that further ahead is worse. Beyond the last weight nothing is read, only
// asked for.
template <int PANELS, int BYTES>
__attribute__((always_inline)) inline void fetch_ahead(const uint8_t* codes) {
    constexpr int AHEAD = 2048 / PANELS;
#pragma GCC unroll 16
    for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(codes + AHEAD + i, 0, 3);
}

inline int smaller(int a, int b) { return a < b ? a : b; }

// All rows under `width` panels. They are shared out evenly; parts that have no tile so wide take one panel at a time.
void run_rows(const Tiling& tiling, Tile tile, int width, int parts) {
    const int rows = tile.x->rows;
    for (int part = 0; part < parts; ++part) {
        const int next = int(int64_t(rows) * (part + 1) / parts), n = next - tile.row;
        if (width > 1 && tiling.width[n] == width) {
            tiling.wide[n](tile);
        } else {
            for (int i = 0; i < width; ++i) {
                Tile single = tile;
                single.panel += i * tile.spacing;
                tiling.narrow[n](single);
            }
        }
        tile.row = next;
    }
}

void run_tiles(const Tiling& tiling, int steps, const Weight& weight, const Activations& x, float* y, size_t stride,
               int first, int last) {
    const int parts = (x.rows + tiling.rows - 1) / tiling.rows, stretch = parts > 1 ? tiling.stretch : steps;
    const auto run = [&](int panel, int spacing, int width) {
        for (int begin = 0; begin < steps; begin += stretch)
            run_rows(tiling, {&weight, &x, y, stride, 0, panel, spacing, begin, smaller(begin + stretch, steps)}, width,
                     parts);
    };
    // The largest part decides how wide tiles are: fewer rows leave room for as many panels or more.
    const int width = tiling.width[(x.rows + parts - 1) / parts], spacing = (last - first) / width;
    for (int i = 0; i < spacing; ++i) run(first + i, spacing, width);
    for (int panel = first + spacing * width; panel < last; ++panel) run(panel, 1, 1);
}

// What one instruction set has for each format.
struct Tilings {
    const Tiling &plain, &int8, &int4, &int4_symmetric;
};

inline void run_linear(const Tilings& tilings, const Weight& weight, const Activations& x, float* y, size_t stride,
                       int first, int last) {
    const int steps = weight.format == BFLOAT16 ? (weight.in + 1) / 2 : weight.in / GROUP;
    const Tiling& tiling = weight.format == BFLOAT16 ? tilings.plain
                           : weight.format == INT8   ? tilings.int8
                           : weight.format == INT4   ? tilings.int4
                                                     : tilings.int4_symmetric;
    run_tiles(tiling, steps, weight, x, y, stride, first, last);
}

// The 16 sums of one row and panel: from y if there is a stretch before this one, else zeros.
inline void load_sums(const Tile& tile, int row, int panel, float* sums) {
    const int valid = tile.begin ? valid_outputs(*tile.weight, panel) : 0;
    const float* from = tile.y + size_t(tile.row + row) * tile.stride + size_t(panel) * PANEL;
    if (valid == PANEL) {
        std::memcpy(sums, from, PANEL * sizeof(float));
    } else {
        std::memset(sums, 0, PANEL * sizeof(float));
        for (int i = 0; i < valid; ++i) sums[i] = from[i];
    }
}

inline void store_sums(const Tile& tile, int row, int panel, float* sums, bool is_last) {
    const int valid = valid_outputs(*tile.weight, panel);
    float* to = tile.y + size_t(tile.row + row) * tile.stride + size_t(panel) * PANEL;
    if (is_last && tile.weight->bias)
        for (int i = 0; i < valid; ++i) sums[i] += tile.weight->bias[panel * PANEL + i];
    if (valid == PANEL)
        std::memcpy(to, sums, PANEL * sizeof(float));
    else
        for (int i = 0; i < valid; ++i) to[i] = sums[i];
}

}  // namespace
}  // namespace swarm
