// The door of the span: checks a step, cuts up the workspace, wakes the threads.
#include "pools.h"
#include "span.h"

#include <cstring>
#include <new>

namespace swarm {
namespace {

enum Outcome : int { FINE = 0, BAD_STEP = 1, BAD_PAGE = 2, BAD_POSITION = 3, NO_ROOM = 4, BAD_SHAPE = 5 };

// Gives out 64-byte aligned parts of one piece of memory; without any, it only counts.
class Cutter {
public:
    explicit Cutter(uint8_t* start) : start_(start) {}

    template <class T>
    T* take(int64_t count) {
        T* part = start_ ? reinterpret_cast<T*>(start_ + taken_) : nullptr;
        taken_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
        return part;
    }

    Operand take_operand(int64_t rows, int64_t width, bool has_values = true) {
        const int64_t numbers = rows * width;
        float* values = has_values ? take<float>(numbers) : nullptr;
        int8_t* codes = take<int8_t>(numbers);
        float* scales = take<float>(numbers / GROUP + 1);
        return {values, codes, scales, take<float>(numbers / GROUP + 1)};
    }

    int64_t taken() const { return taken_; }

private:
    uint8_t* start_;
    int64_t taken_ = 0;
};

Lane cut_lane(Cutter& cutter, const Shape& shape, int64_t tokens) {
    Lane lane;
    lane.hidden = cutter.take<float>(tokens * shape.hidden);
    lane.normed = cutter.take_operand(tokens, shape.hidden);
    lane.choice = cutter.take<int32_t>(tokens * shape.chosen);
    lane.shares = cutter.take<float>(tokens * shape.chosen);
    return lane;
}

Buffers cut(Cutter& cutter, const Shape& shape, int64_t tokens, int threads) {
    Buffers buffers;
    buffers.num_lanes = tokens == 1 ? threads : 1;
    buffers.lanes = cutter.take<Lane>(buffers.num_lanes);
    for (int i = 0; i < buffers.num_lanes; ++i) {
        const Lane lane = cut_lane(cutter, shape, tokens);
        if (buffers.lanes) buffers.lanes[i] = lane;
    }
    const int64_t width = static_cast<int64_t>(shape.heads) * shape.head;
    const int64_t gathered = shape.experts ? tokens : 0;
    buffers.members = cutter.take<int32_t>(gathered * threads);
    buffers.qkv = cutter.take<float>(tokens * (width + 2 * static_cast<int64_t>(shape.kv_heads) * shape.head));
    buffers.attended = cutter.take_operand(tokens, width);
    buffers.branch = cutter.take<float>(tokens * shape.hidden);
    buffers.part = cutter.take<float>(gathered * shape.hidden);
    buffers.gathered = cutter.take_operand(gathered, shape.hidden);
    buffers.inner = cutter.take_operand(tokens, shape.inner, shape.plain_inner != 0);
    const size_t feed = 2 * feed_floats(static_cast<int>(tokens)), attention = attention_floats(shape);
    buffers.scratch_floats = ((feed > attention ? feed : attention) + 15) / 16 * 16;
    buffers.scratch = cutter.take<float>(static_cast<int64_t>(buffers.scratch_floats) * threads);
    return buffers;
}

bool is_possible(const Shape& s) {
    return s.hidden > 0 && s.heads > 0 && s.kv_heads > 0 && s.head > 0 && s.head % 2 == 0 && s.inner > 0 &&
           s.heads % s.kv_heads == 0 && s.heads / s.kv_heads <= MAX_ITEM_ROWS && s.experts >= 0 &&
           s.experts <= MOST_EXPERTS && s.chosen >= 0 && s.chosen <= s.experts;
}

Outcome check(const Step& step) {
    if (step.tokens < 1 || step.num_rows < 1 || step.first_block < 0 || step.last_block <= step.first_block)
        return BAD_STEP;
    int64_t tokens = 0;
    for (int r = 0; r < step.num_rows; ++r) {
        const RaggedRow& row = step.rows[r];
        if (row.length < 1 || row.position < 0 || row.first_page < 0) return BAD_STEP;
        const int64_t end = static_cast<int64_t>(row.position) + row.length;
        if (end > step.positions) return BAD_POSITION;
        const int64_t pages = (end + PAGE - 1) / PAGE;
        if (row.first_page + pages > step.num_pages) return BAD_PAGE;
        for (int64_t p = row.first_page; p < row.first_page + pages; ++p)
            if (step.pages[p] < 0 || step.pages[p] >= step.pool_slots / PAGE) return BAD_PAGE;
        tokens += row.length;
    }
    return tokens == step.tokens ? FINE : BAD_STEP;
}

using WalkOver = void (*)(const Walk&, int);

WalkOver walk_of(const Kernels& kernels) {
#if defined(__x86_64__)
    if (!std::strncmp(kernels.name, "avx512", 6)) return walk_avx512;
    if (!std::strcmp(kernels.name, "avx2")) return walk_avx2;
#endif
    return walk_portable;
}

}  // namespace
}  // namespace swarm

// Bytes of workspace that steps of up to `tokens` tokens need; 0 if the kernels cannot run this shape.
extern "C" int64_t swarm_span_workspace(const swarm::Shape* shape, int64_t tokens, int threads) {
    if (!swarm::is_possible(*shape) || tokens < 1 || tokens > INT32_MAX || threads < 1) return 0;
    swarm::Cutter cutter(nullptr);
    swarm::cut(cutter, *shape, tokens, threads);
    return cutter.taken();
}

// Run a step; an `Outcome` other than 0 means that nothing was written.
extern "C" int swarm_span_run(const swarm::Shape* shape, const swarm::Block* blocks, const swarm::Step* step,
                              int threads) try {
    using namespace swarm;
    if (!is_possible(*shape)) return BAD_SHAPE;
    if (const Outcome outcome = check(*step)) return outcome;
    Lease lease(threads);
    Pool& pool = lease.pool();
    Cutter cutter(step->workspace);
    const Buffers buffers = cut(cutter, *shape, step->tokens, pool.threads());
    if (cutter.taken() > step->workspace_bytes) return NO_ROOM;
    struct Job {
        Walk walk;
        WalkOver walk_over;
    } job{{*shape, blocks, *step, buffers, kernels(), pool}, walk_of(kernels())};
    pool.run([](void* argument, int thread) {
        const Job& job = *static_cast<Job*>(argument);
        job.walk_over(job.walk, thread);
    }, &job);
    return FINE;
} catch (const std::bad_alloc&) {
    return swarm::NO_ROOM;
}
