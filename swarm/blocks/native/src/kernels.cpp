// Which instruction set runs: the best that this machine has, or the one that SWARM_KERNEL names.
#include "linear.h"

#include <cstdlib>
#include <cstring>

namespace swarm {

extern const Kernels PORTABLE;

#if defined(__x86_64__)
extern const Kernels AVX2, AVX512;

namespace {
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
}  // namespace
#endif

const Kernels* find_kernels(const char* name) {
#if defined(__x86_64__)
    if (has_avx512() && (!name || !std::strcmp(name, AVX512.name))) return &AVX512;
    if (has_avx2() && (!name || !std::strcmp(name, AVX2.name))) return &AVX2;
#endif
    return !name || !std::strcmp(name, PORTABLE.name) ? &PORTABLE : nullptr;
}

const char* asked_kernel() {
    const char* asked = std::getenv("SWARM_KERNEL");
    return asked && *asked ? asked : nullptr;
}

const Kernels& kernels() {
    static const Kernels& chosen = [] () -> const Kernels& {
        const Kernels* asked = find_kernels(asked_kernel());
        return asked ? *asked : *find_kernels(nullptr);
    }();
    return chosen;
}

}  // namespace swarm
