// The walk over a span in AVX512.
#if defined(__AVX512F__)
#include "walk.h"

namespace swarm {

void walk_avx512(const Walk& walk, int thread) { Walker(walk, thread).run(); }

}  // namespace swarm
#endif
