// The walk over a span in AVX2 and FMA.
#if defined(__AVX2__)
#include "walk.h"

namespace swarm {

void walk_avx2(const Walk& walk, int thread) { Walker(walk, thread).run(); }

}  // namespace swarm
#endif
