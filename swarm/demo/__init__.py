"""A whole swarm on one machine: real processes, started, used and stopped."""
