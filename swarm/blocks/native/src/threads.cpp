// Threads that sleep between runs, and spin for a moment before they do: the next step of a decode comes within tens of
// microseconds, and waking a thread costs as much.
//
// Cores may be shared with other servers, so whoever waits within a run spins, then lets others run.
#include "linear.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <pthread.h>
#include <sched.h>
#include <system_error>
#include <thread>
#include <vector>

namespace swarm {
namespace {

constexpr int SPINS = 600;        // pauses, about 20 us, before a waiting thread of a run yields its core
constexpr int IDLE_SPINS = 1000;  // before an idle thread sleeps

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

template <typename Condition>
void wait_until(Condition is_met) {
    for (int spins = 0; !is_met();) {
        if (spins < SPINS) {
            ++spins;
            pause();
        } else {
            sched_yield();
        }
    }
}

// Forks of this process so far. A child inherits pools but not their threads.
std::atomic<int> num_forks{0};

void watch_forks() {
    static const int watched = pthread_atfork(nullptr, nullptr, [] { num_forks.fetch_add(1); });
    (void)watched;
}

}  // namespace

struct Pool::State {
    int born = 0;  // num_forks when the threads began
    int size = 1;
    void (*body)(void*, int) = nullptr;
    void* argument = nullptr;
    alignas(64) std::atomic<uint32_t> round{0};  // runs begun; a change wakes the threads
    alignas(64) std::atomic<int> working{0};     // threads that have not finished this run
    alignas(64) std::atomic<int> arrived{0};     // at the barrier
    alignas(64) std::atomic<uint32_t> passed{0};  // barriers passed
    std::atomic<int> sleeping{0};
    std::atomic<bool> is_ending{false};
    std::mutex mutex;
    std::condition_variable wake;
    std::vector<std::thread> threads;

    explicit State(int wanted) : born(num_forks.load()) {
        // Reserved first: a thread that has no place in the vector could be neither joined nor left.
        threads.reserve(size_t(wanted > 1 ? wanted - 1 : 0));
        try {
            for (; size < wanted; ++size) threads.emplace_back([this, index = size] { serve(index); });
        } catch (const std::system_error&) {
            // The system gives no more threads: those that began do the work.
        }
    }

    ~State() {
        {
            std::lock_guard<std::mutex> lock(mutex);
            is_ending = true;
            round.fetch_add(1);
        }
        wake.notify_all();
        for (std::thread& thread : threads) thread.join();
    }

    void serve(int index) {
        for (uint32_t seen = 0;;) {
            seen = next_round(seen);
            if (is_ending) return;
            body(argument, index);
            working.fetch_sub(1, std::memory_order_release);
        }
    }

    uint32_t next_round(uint32_t seen) {
        for (int spins = 0; spins < IDLE_SPINS; ++spins) {
            const uint32_t now = round.load(std::memory_order_acquire);
            if (now != seen) return now;
            pause();
        }
        std::unique_lock<std::mutex> lock(mutex);
        sleeping.fetch_add(1);
        wake.wait(lock, [&] { return round.load() != seen; });
        sleeping.fetch_sub(1);
        return round.load();
    }
};

Pool::Pool(int threads) {
    watch_forks();
    state_ = new State(threads);
}

Pool::~Pool() {
    // In a child of the process that made it, there are no threads to join, and a lock may be held by one of them.
    if (state_->born == num_forks.load()) delete state_;
}

int Pool::threads() const { return state_->size; }

void Pool::run(void (*body)(void* argument, int thread), void* argument) {
    if (state_->size == 1) return body(argument, 0);
    if (state_->born != num_forks.load()) state_ = new State(state_->size);  // the old one is the parent's to end
    State& state = *state_;
    state.body = body;
    state.argument = argument;
    state.working.store(state.size - 1, std::memory_order_relaxed);
    state.round.fetch_add(1);  // both in one total order: either we see the sleeper, or it sees the round
    if (state.sleeping.load()) {
        std::lock_guard<std::mutex> lock(state.mutex);
        state.wake.notify_all();
    }
    body(argument, 0);
    wait_until([&] { return state.working.load(std::memory_order_acquire) == 0; });
}

void Pool::barrier(int) {
    State& state = *state_;
    if (state.size == 1) return;
    const uint32_t before = state.passed.load(std::memory_order_acquire);
    if (state.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == state.size) {
        state.arrived.store(0, std::memory_order_relaxed);
        state.passed.fetch_add(1, std::memory_order_release);
        return;
    }
    wait_until([&] { return state.passed.load(std::memory_order_acquire) != before; });
}

}  // namespace swarm
