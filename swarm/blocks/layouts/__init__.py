"""Layouts of a linear layer's weight that torch's own operators run; `swarm.blocks.linear` chooses among them."""
