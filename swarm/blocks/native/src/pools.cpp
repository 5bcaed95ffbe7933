// Pools live as long as the process: their threads must not be joined while it ends.
#include "pools.h"

#include <map>

namespace swarm {
namespace {

struct SharedPool {
    explicit SharedPool(int threads) : pool(threads) {}
    Pool pool;
    std::mutex in_use;
};

SharedPool* shared_pool(int threads) {
    static std::mutex mutex;
    static auto& pools = *new std::map<int, SharedPool*>;
    // Not waited for: after a fork it may be locked for ever.
    const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
    if (!lock) return nullptr;
    SharedPool*& found = pools[threads];
    if (!found) found = new SharedPool(threads);
    return found;
}

}  // namespace

Lease::Lease(int threads) {
    static Pool& alone = *new Pool(1);  // has no threads, and so no state that calls could disturb
    pool_ = &alone;
    if (threads < 2) return;
    if (SharedPool* shared = shared_pool(threads < MAX_THREADS ? threads : MAX_THREADS)) {
        lock_ = std::unique_lock<std::mutex>(shared->in_use, std::try_to_lock);
        if (lock_) pool_ = &shared->pool;
    }
}

}  // namespace swarm
