// Pools that calls share: one for each number of threads, made when first asked for.
#pragma once

#include "linear.h"

#include <mutex>

namespace swarm {

constexpr int MAX_THREADS = 256;

// A pool for the length of a call. If another thread of the process is using it, or a fork left it locked, the call gets
// one that consists of the calling thread alone: one thread computes the same bits.
class Lease {
public:
    explicit Lease(int threads);
    Pool& pool() { return *pool_; }

private:
    std::unique_lock<std::mutex> lock_;
    Pool* pool_;
};

}  // namespace swarm
