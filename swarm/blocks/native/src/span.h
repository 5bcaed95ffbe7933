// A span of decoder blocks, run by one call a step: the plain structs that Python fills in, and who walks over them.
//
// The span owns nothing. Python owns weights, tables, caches and workspace, and keeps them alive during a call.
#pragma once

#include "linear.h"

namespace swarm {

constexpr int PAGE = 16;  // slots of a page, swarm/blocks/paged/pages.py

// What is equal for all blocks. Flags are 0 or 1.
struct Shape {
    int32_t hidden, heads, kv_heads, head, inner;  // D, H, K, E and the width inside the feed-forward half
    int32_t experts, chosen;                       // 0, or how many there are and how many a token goes through
    int32_t gelu;                                  // the gate's activation: tanh-gelu, else silu
    int32_t narrow_cache;                          // keys and values are bfloat16, else float32
    int32_t plain_inner;                           // some `down` is BFLOAT16, and so reads plain float32
    float epsilon, scale, softcap;                 // softcap 0: none
};

// down(activation(gate(x)) * up(x))
struct Feed {
    Weight gate, up, down;
};

// One block. Norms are (D,) float32, those of heads (E,); null where there is none.
struct Block {
    const float *norm, *feed_norm, *after_norm, *after_feed_norm, *query_norm, *key_norm;
    const float* router;  // (experts, D) or null
    const Feed* feeds;    // one, or `experts` of them
    Weight qkv, out;
    int32_t window;  // how many tokens back a token sees, itself included; 0: all
    int32_t rope;    // which of the step's two tables turns its heads
};

// The tokens [position, position + length) of one sequence, whose pages start at pages[first_page].
struct RaggedRow {
    int32_t position, length, first_page;
};

// One forward pass.
struct Step {
    int32_t tokens, num_rows, num_pages, pool_slots;  // num_pages: entries of `pages`
    int32_t first_block, last_block;                  // of blocks and cache, half-open
    int32_t narrow_input, narrow_output;              // hidden states are bfloat16, else float32
    const RaggedRow* rows;
    const int32_t* pages;
    const float* cosines[2];  // (positions, E / 2) float32 each, of the global and the local rope
    const float* sines[2];
    int64_t positions;  // rows of those tables
    const void* input;  // (T, D)
    void* output;       // (T, D)
    void *keys, *values;  // (L, slots, K, E), with pages as drawn below
    uint8_t* workspace;   // 64-byte aligned
    int64_t workspace_bytes;
};

// What is inside a page is laid out as attention reads it, so that nothing is turned or jumped over at each step:
//
//   keys    (K, E, PAGE)   16 slots side by side, to be met by one number of a query
//   values  (K, PAGE, E)
//
// One head's half page is 2 KiB in a row where E = 64, in bfloat16. Torch's blocks see (PAGE, K, E) in the same memory;
// what both agree on is where a page begins and ends, and pages are only ever copied whole.

// One input of linear layers: plain, and in codes.
struct Operand {
    float* values;
    int8_t* codes;
    float *scales, *sums;
};

// What a thread that works on tokens reads and writes. One shared by all threads; or one each if there is a single
// token, for computing it everywhere is cheaper than waiting for whoever computes it.
struct Lane {
    float* hidden;   // (T, D), the residual stream
    Operand normed;  // (T, D)
    int32_t* choice;  // (T, chosen) experts, ascending
    float* shares;    // (T, chosen) their weights
};

// The workspace, cut up.
struct Buffers {
    Lane* lanes;
    int32_t num_lanes;
    int32_t* members;     // (T,) for each thread: the tokens that chose an expert
    float* qkv;           // (T, (H + 2 K) E)
    Operand attended;     // (T, H E)
    float* branch;        // (T, D), what a half adds to the residual stream
    float* part;          // (T, D), what one expert adds
    Operand gathered;     // (T, D), inputs of one expert
    Operand inner;        // (T, inner)
    float* scratch;       // scratch_floats for each thread
    size_t scratch_floats;
};

// Everything that a walk needs, read-only but for what `buffers` points to.
struct Walk {
    const Shape& shape;
    const Block* blocks;
    const Step& step;
    const Buffers& buffers;
    const Kernels& kernels;
    Pool& pool;
};

constexpr int MOST_EXPERTS = 256;
constexpr int MAX_ITEM_ROWS = 64;  // query heads times tokens that share the keys of one tile, at most
constexpr int ITEM_ROWS = 48;      // and if a head group is smaller: whole register tiles of 2, 6 and 12 rows
constexpr int TILE = 64;           // keys of a tile: aligned to absolute positions, so that no batch changes the sums

static inline int padded_head(const Shape& shape) { return (shape.head + 15) / 16 * 16; }

// Floats of scratch that attention and the feed-forward half need on each thread.
static inline size_t attention_floats(const Shape& shape) {
    const size_t head = static_cast<size_t>(padded_head(shape));
    return head * PAGE + MAX_ITEM_ROWS * (head + TILE + 16 + 16);
}

constexpr size_t FEED_FLOATS = 1 << 14;  // of gate, and of up: 64 KiB each stay in the cache

static inline size_t feed_floats(int tokens) {
    const size_t least = static_cast<size_t>(tokens) * GROUP;
    return least > FEED_FLOATS ? least : FEED_FLOATS;
}

// All threads of the pool call these together; each is one instruction set's.
void walk_avx512(const Walk& walk, int thread);
void walk_avx2(const Walk& walk, int thread);
void walk_portable(const Walk& walk, int thread);

}  // namespace swarm
