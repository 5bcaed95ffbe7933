// The walk over a span in plain vectors of four numbers, for any machine.
#include "walk.h"

namespace swarm {

void walk_portable(const Walk& walk, int thread) { Walker(walk, thread).run(); }

}  // namespace swarm
