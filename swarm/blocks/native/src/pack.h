// Packing at load: from the canonical form (swarm/blocks/weights.py) to what the kernels stream.
#pragma once

#include "linear.h"

namespace swarm {

// Fill `packed`, of packed_bytes(format, out, in). `codes`: BFLOAT16 (out, in) bfloat16, INT8 (out, in) int8, the
// others (out, in / 2) bytes; all 4-byte aligned. `scales` (out, in / GROUP) bfloat16; `minimums` too, for INT4 alone.
void pack(Format format, int out, int in, const void* codes, const uint16_t* scales, const uint16_t* minimums,
          uint8_t* packed);

}  // namespace swarm
