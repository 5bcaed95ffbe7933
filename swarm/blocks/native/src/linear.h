// Linear layers over packed weights, and the threads that share them.
//
// One layout serves every number of rows and every instruction set: PANEL outputs side by side, their inputs one
// after another, so that the weights stream through memory once. A row's result never depends on which rows travel
// with it: each output sums its groups in order, whatever the tiling.
#pragma once

#include <cstddef>
#include <cstdint>

namespace swarm {

constexpr int GROUP = 32;  // inputs that share a scale
constexpr int PANEL = 16;  // outputs packed together; the last panel is padded with zeros

enum Format : int32_t { BFLOAT16 = 1, INT8 = 2, INT4 = 3, INT4_SYMMETRIC = 4 };

// A packed matrix (out, in) and its bias (out,) or null. `packed` is 64-byte aligned; layout.h draws what it holds.
// All formats but BFLOAT16 need `in` to be a multiple of GROUP.
struct Weight {
    Format format;
    int32_t out, in;
    const uint8_t* packed;
    const float* bias;
};

// Tokens ready for a product: plain float32 for BFLOAT16 weights, codes for the others. Unused pointers are null.
// Codes, scales and sums are as `quantize` writes them.
struct Activations {
    int32_t rows, width;    // width is the weight's `in`
    const float* values;    // (rows, width)
    const int8_t* codes;    // (rows, width), -127 to 127
    const float* scales;    // (rows, width / GROUP): value = scale * code
    const float* sums;      // (rows, width / GROUP): sum of the group's codes, a whole number: for minimums and offsets
};

// What one instruction set provides. All functions are single-threaded and allocate nothing.
struct Kernels {
    const char* name;  // "avx512vnni", "avx2", "portable"
    // Quantise one row of `width` floats (a multiple of GROUP). A group with a NaN or an infinity has scale NaN and
    // codes 0, so every output that it reaches is NaN.
    void (*quantize)(const float* x, int width, int8_t* codes, float* scales, float* sums);
    // y[row * stride + output] = x W^T + bias for the outputs of the panels [first, last). For the bits of y it makes
    // no difference how rows and panels are divided among calls.
    void (*linear)(const Weight& weight, const Activations& x, float* y, size_t stride, int first, int last);
};

const Kernels& kernels();                       // the best that this machine runs; SWARM_KERNEL names another one
const Kernels* find_kernels(const char* name);  // those of this name, or the best for null; null if it lacks them
const char* asked_kernel();                     // what SWARM_KERNEL says; null if nothing

static constexpr int panels(int out) { return (out + PANEL - 1) / PANEL; }

size_t packed_bytes(Format format, int out, int in);  // of `Weight::packed`; 0 if the format refuses this shape

// Threads that run one function together. `run` wakes them, takes part as thread 0, and returns when all are done.
// One caller at a time. After a fork the child's first `run` makes threads of its own.
class Pool {
public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;
    int threads() const;  // those that `run` uses: fewer than asked for if the system gave no more
    void run(void (*body)(void* argument, int thread), void* argument);
    void barrier(int thread);  // within a body: all threads have come here; memory written before is seen after

private:
    struct State;
    State* state_;
};

}  // namespace swarm
