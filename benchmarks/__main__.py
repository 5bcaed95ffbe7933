"""`python -m benchmarks NAME`: run one benchmark, print its table, write its JSON."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib import import_module

NAMES = {
    "decode": "tokens/s, time to first token and per-hop overhead of one stream, beside local transformers",
    "failover": "servers killed and frozen under running texts: do they come, equal, after what pause",
    "gateway": "streams by HTTP: share of the tokens/s of the library in one process",
    "kernels": "linear layers and whole blocks: time, share of the read bandwidth, error by format, beside torch's",
    "serving": "many sessions at once: tokens/s, time to first token, gaps, a long prompt beside them",
    "wan": "a swarm over a wide-area network: tokens/s, time to first token, share of the unavoidable; needs root",
    "quality": "perplexity of a text by weight format, on local blocks",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark that `argv` names; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in NAMES:
        lines = [f"  {name:<10}{text}" for name, text in NAMES.items()]
        print("\n".join(["usage: python -m benchmarks NAME [--json FILE] ...", "", *lines]))
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # unwind, so that no process of ours is left
    status: int = import_module(f"benchmarks.{words[0]}").main(words[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
