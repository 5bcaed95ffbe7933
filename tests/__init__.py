"""The tests mirror the rooms of `swarm`; a package of its own name, so that no installed `tests` can take its place."""
