"""A client for a host of its own: `python -m tests.swarm.from_afar MODEL ADDR NUM_TOKENS` prints JSON."""

from __future__ import annotations

import json
import sys
import time

import torch

from swarm import AutoModelForCausalLM
from swarm.client.bridge import bridge

IDS = [[5, 9, 2, 7, 1, 3]]


def main() -> None:
    folder, addr, num_tokens = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(folder, initial_peers=[addr])
    began = time.monotonic()
    ids = model.generate(torch.tensor(IDS), max_new_tokens=int(num_tokens), do_sample=False)
    seconds = time.monotonic() - began
    view = bridge().run(model._connection.routes.agreement(model._model, age=0.0)).view
    records = {
        record.peer: [record.reach.value, list(record.addrs), dict(record.round_trips)] for record in view.records
    }
    route = [hop.peer for hop in model.route()]
    print(json.dumps({"ids": ids.tolist(), "route": route, "records": records, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
