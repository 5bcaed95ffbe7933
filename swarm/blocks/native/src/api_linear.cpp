// What Python calls, by ctypes: packing, and one linear layer over some rows. The GIL is released meanwhile.
//
// Callers have checked shapes and dtypes; what could corrupt memory is checked again here, and answered by a number.
#include "layout.h"
#include "pack.h"
#include "pools.h"

#include <atomic>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace swarm {
namespace {

constexpr int REFUSED = 1, NO_MEMORY = 2;

// A thread's scratch, kept between calls: nothing is allocated in a steady state.
template <typename T>
struct Scratch {
    std::vector<T> numbers;
    T* of(size_t size) {
        if (numbers.size() < size) numbers.resize(size);
        return numbers.data();
    }
};

struct Workspace {
    Scratch<float> values, scales, sums, y;
    Scratch<int8_t> codes;
};

uint16_t narrowed(float number) {
    uint32_t bits;
    std::memcpy(&bits, &number, 4);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
    return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded);
}

struct Call {
    const Weight& weight;
    const void *x, *add;
    void* y;
    bool is_bfloat16;
    int rows;
    Pool* pool;
    float *values, *scales, *sums, *wide;
    int8_t* codes;
};

// Row `row` of x as the kernel wants it: floats for plain weights, else codes.
void prepare(const Call& call, int row) {
    const size_t in = size_t(call.weight.in), groups = in / GROUP, at = size_t(row) * in;
    const float* x = static_cast<const float*>(call.x) + at;
    if (call.is_bfloat16) {
        const uint16_t* narrow = static_cast<const uint16_t*>(call.x) + at;
        float* values = call.values + at;
        for (size_t i = 0; i < in; ++i) values[i] = widened(narrow[i]);
        x = values;
    }
    if (call.weight.format != BFLOAT16)
        kernels().quantize(x, call.weight.in, call.codes + at, call.scales + size_t(row) * groups,
                           call.sums + size_t(row) * groups);
}

// Outputs [first, last) of all rows: add, and round if need be.
void finish(const Call& call, size_t first, size_t last) {
    const size_t out = size_t(call.weight.out);
    const float* add = static_cast<const float*>(call.add);
    for (size_t row = 0; row < size_t(call.rows); ++row) {
        float* y = call.wide + row * out;
        if (!call.is_bfloat16) {
            for (size_t i = first; add && i < last; ++i) y[i] += add[row * out + i];
            continue;
        }
        uint16_t* narrow = static_cast<uint16_t*>(call.y) + row * out;
        const uint16_t* narrow_add = static_cast<const uint16_t*>(call.add);
        for (size_t i = first; i < last; ++i)
            narrow[i] = narrowed(narrow_add ? y[i] + widened(narrow_add[row * out + i]) : y[i]);
    }
}

void run_part(void* argument, int thread) {
    const Call& call = *static_cast<const Call*>(argument);
    const int threads = call.pool->threads();
    const auto part = [&](int whole, int index) { return int(int64_t(whole) * index / threads); };
    for (int row = part(call.rows, thread); row < part(call.rows, thread + 1); ++row) prepare(call, row);
    call.pool->barrier(thread);
    const int width = call.weight.in, first = part(panels(call.weight.out), thread);
    const int last = part(panels(call.weight.out), thread + 1);
    const float* values = call.is_bfloat16 ? call.values : static_cast<const float*>(call.x);
    const Activations x = {call.rows, width, values, call.codes, call.scales, call.sums};
    kernels().linear(call.weight, x, call.wide, size_t(call.weight.out), first, last);
    const int end = last * PANEL < call.weight.out ? last * PANEL : call.weight.out;
    finish(call, size_t(first) * PANEL, size_t(end));
}

struct Reading {
    const uint64_t* from;
    int64_t lines;
    int streams;
    Pool* pool;
    std::atomic<uint64_t> total;
};

void read_part(void* argument, int thread) {
    Reading& reading = *static_cast<Reading*>(argument);
    const int parts = reading.pool->threads() * reading.streams;
    const int64_t each = reading.lines / parts;  // what is left over is not read
    const uint64_t* first = reading.from + each * 8 * thread * reading.streams;
    uint64_t sums[8] = {};
    for (int64_t line = 0; line < each; ++line)
        for (int stream = 0; stream < reading.streams; ++stream)
            for (int i = 0; i < 8; ++i) sums[i] += first[(stream * each + line) * 8 + i];
    for (const uint64_t sum : sums) reading.total += sum;
}

bool is_sound(const Weight* weight) {
    return weight && weight->packed && reinterpret_cast<uintptr_t>(weight->packed) % 64 == 0 &&
           packed_bytes(weight->format, weight->out, weight->in) > 0;
}

}  // namespace
}  // namespace swarm

using namespace swarm;

extern "C" {

// The kernel that runs, what SWARM_KERNEL asks for (null if nothing), and whether this machine runs the one of a name.
const char* swarm_kernel() { return kernels().name; }
const char* swarm_kernel_asked() { return asked_kernel(); }
int swarm_kernel_runs(const char* name) { return find_kernels(name) != nullptr; }

int64_t swarm_packed_bytes(int format, int out, int in) { return int64_t(packed_bytes(Format(format), out, in)); }

// See pack.h.
int swarm_pack(int format, int out, int in, const void* codes, const uint16_t* scales, const uint16_t* minimums,
               uint8_t* packed) {
    const size_t bytes = packed_bytes(Format(format), out, in);
    if (!bytes || !codes || !packed || (format != BFLOAT16 && !scales) || (format == INT4 && !minimums)) return REFUSED;
#if defined(__linux__)
    // Weights are read from end to end at every step: larger pages cost fewer look-ups. A wish: refusal is no fault.
    const uintptr_t page = 4096, start = (reinterpret_cast<uintptr_t>(packed) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(packed) + bytes) / page * page;
    if (end > start) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#endif
    pack(Format(format), out, in, codes, scales, minimums, packed);
    return 0;
}

// One row of `width` floats; see Kernels::quantize.
int swarm_quantize(const float* x, int width, int8_t* codes, float* scales, float* sums) {
    if (!x || !codes || !scales || !sums || width <= 0 || width % GROUP) return REFUSED;
    kernels().quantize(x, width, codes, scales, sums);
    return 0;
}

// y (rows, out) = x (rows, in) W^T + bias (+ add), all float32 or, if `is_bfloat16`, all bfloat16; `add` may be null.
int swarm_linear(const Weight* weight, const void* x, const void* add, void* y, int is_bfloat16, int rows,
                 int threads) {
    static thread_local Workspace workspace;
    if (!is_sound(weight) || rows < 0 || threads < 1) return REFUSED;
    if (rows == 0) return 0;
    if (!x || !y) return REFUSED;
    const bool is_plain = weight->format == BFLOAT16;
    const size_t in = size_t(rows) * size_t(weight->in), groups = in / GROUP, out = size_t(rows) * size_t(weight->out);
    try {
        Lease lease(threads);
        Pool& pool = lease.pool();
        Call call = {*weight, x, add, y, is_bfloat16 != 0, rows, &pool, nullptr, nullptr, nullptr, nullptr, nullptr};
        if (is_bfloat16) call.values = workspace.values.of(in);
        call.wide = is_bfloat16 ? workspace.y.of(out) : static_cast<float*>(y);
        if (!is_plain) {
            call.codes = workspace.codes.of(in);
            call.scales = workspace.scales.of(groups);
            call.sums = workspace.sums.of(groups);
        }
        pool.run(run_part, &call);
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
    return 0;
}

// Read `bytes`, in whole lines of 64, once, on each thread in `streams` runs side by side: what it takes is about the
// least that a step over as many bytes of weights can take. Returns a number that depends on them.
uint64_t swarm_read(const uint64_t* from, int64_t bytes, int threads, int streams) {
    if (!from || bytes < 0 || threads < 1 || streams < 1) return 0;
    Lease lease(threads);
    Reading reading = {from, bytes / 64, streams, &lease.pool(), {0}};
    lease.pool().run(read_part, &reading);
    return reading.total.load();
}

}  // extern "C"
