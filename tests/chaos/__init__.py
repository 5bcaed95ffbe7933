"""A swarm of real processes to which things happen; a package, so that its swarm ends with its last test."""
