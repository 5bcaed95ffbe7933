"""What a monitor knows, without its page: `python examples/monitor_api.py http://127.0.0.1:8080 [API_KEY]`."""

import json
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any


def ask(url: str, key: str = "") -> Any:
    """Open a URL of the monitor, with the key if it wants one."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30)


def events(url: str, key: str = "") -> Iterator[tuple[str, Any]]:
    """Follow the swarm: first ("state", all of it), then ("change", what is new) after each look of the monitor."""
    with ask(f"{url}/api/v1/events", key) as stream:
        name = ""
        for raw in stream:
            field, _, value = raw.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


def main(url: str, key: str = "") -> None:
    """Print each model, its alerts, its servers and its last hour; then wait for the next look."""
    state = json.load(ask(f"{url}/api/v1/state", key))
    for model in state["models"]:
        word = "whole" if model["is_whole"] else f"{model['num_covered']} of {model['num_blocks']} blocks"
        print(f"{model['name']}: {word}, {model['per_s']:g} tokens/s")
        for alert in model["alerts"]:
            print(f"  {alert['level']}: {alert['text']}")
        for server in state["servers"]:
            if server["model"] == model["name"]:
                print(f"  blocks {server['start']}:{server['end']} {server['standing']} at {server['peer']}")
        query = urllib.parse.urlencode({"model": model["name"], "seconds": 3600, "points": 60})
        history = json.load(ask(f"{url}/api/v1/history?{query}", key))
        print(f"  {len(history['rows'])} points of {history['step']} s in the last hour")
    for name, _ in events(url, key):
        print(f"event: {name}")
        if name == "change":
            break


if __name__ == "__main__":
    main(*sys.argv[1:])
