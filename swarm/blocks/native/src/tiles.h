// The way through a product, the same for every instruction set: tiles of rows under one or a few panels.
//
// With few rows a panel streams through once. With many, its inputs are taken a stretch at a time, so that its weights
// stay in the first cache while all rows pass over them. Sums in progress rest in y between two stretches: a float32
// comes back from memory as it went, so this changes no bit. Static, as all that is compiled more than once.
#pragma once

#include "layout.h"

namespace swarm {
namespace {

// One tile: rows [row, row + ROWS) of x under the panels [panel, panel + PANELS), over the steps [begin, end).
struct Tile {
    const Weight* weight;
    const Activations* x;
    float* y;
    size_t stride;
    int row, panel, begin, end;
};

using RunTile = void (*)(const Tile& tile);

// The tiles that one format has: for `n` rows, `narrow[n]` does one panel and `wide[n]` does `width[n]` of them.
struct Tiling {
    int rows;     // most rows of a tile
    int stretch;  // steps that share the first cache with the rows that pass
    const int* width;
    const RunTile *narrow, *wide;
};

// Fetches codes, scales and minimums before they are used, for the first rows that pass over a panel: the others find it
// in the cache. In two steps: the first cache has too few open requests for the long way from memory, the second has enough. The far one goes
// through all bytes of the panels, so that it meets the next tile's as well, small as they may be. Measured (Zen 4, AVX2,
// one row and thread, 8B and SmolLM2 shapes in large pages): int8 24 and 20 GB/s, with the near one alone 19 and 13, with
// none 19 and 9. BFLOAT16, without scales in between, is best left to the machine's own prefetching: 29 GB/s against 23.
// Beyond the last weight nothing is read, only asked for.
template <int PANELS, int HEADER, int CODES>
struct Ahead {
    static constexpr int FAR = 16384, NEAR = 1024, NEAR_GROUPS = 4, BYTES = HEADER + CODES;
    const uint8_t* from;
    int64_t panel_size, begin;

    Ahead(const uint8_t* panel, int64_t panel_size, int64_t header_size)
        : from(panel + (header_size + FAR) / panel_size * PANELS * panel_size), panel_size(panel_size),
          begin((header_size + FAR) % panel_size) {}

    __attribute__((always_inline)) inline void fetch(int panel, int group, const uint8_t* header,
                                                     const uint8_t* codes) const {
        int64_t at = begin + int64_t(group) * BYTES;
        if (at >= panel_size) at += (PANELS - 1) * panel_size;  // the next tile's panel
        const uint8_t* line = from + panel * panel_size + at;
#pragma GCC unroll 16
        for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(line + i, 0, 2);
#pragma GCC unroll 16
        for (int i = 0; i < CODES; i += 64) __builtin_prefetch(codes + NEAR + i, 0, 3);
        __builtin_prefetch(header + NEAR_GROUPS * HEADER, 0, 3);
    }
};

inline int smaller(int a, int b) { return a < b ? a : b; }

void run_rows(const Tiling& tiling, Tile tile, int panels_left, int* done) {
    const int rows = tile.x->rows;
    const int parts = (rows + tiling.rows - 1) / tiling.rows;
    // All tiles of a panel must take as many panels, so the widest tile decides; the others have as many rows or less.
    const int most = (rows + parts - 1) / parts;
    const bool is_wide = panels_left >= tiling.width[most];
    *done = is_wide ? tiling.width[most] : 1;
    for (int part = 0; part < parts; ++part) {
        const int next = int(int64_t(rows) * (part + 1) / parts);
        const int n = next - tile.row;
        if (is_wide && tiling.width[n] == *done) {
            tiling.wide[n](tile);
        } else {
            for (int i = 0; i < *done; ++i) {
                Tile single = tile;
                single.panel += i;
                tiling.narrow[n](single);
            }
        }
        tile.row = next;
    }
}

void run_tiles(const Tiling& tiling, int steps, const Weight& weight, const Activations& x, float* y, size_t stride,
               int first, int last) {
    const int stretch = x.rows > tiling.rows ? tiling.stretch : steps;
    for (int panel = first, done = 1; panel < last; panel += done)
        for (int begin = 0; begin < steps; begin += stretch)
            run_rows(tiling, {&weight, &x, y, stride, 0, panel, begin, smaller(begin + stretch, steps)}, last - panel,
                     &done);
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
