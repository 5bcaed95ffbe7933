"""The stock `openai` client and a gateway of our own: `python examples/openai_client.py ADDR`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from openai import OpenAI

KEY = "any-words-that-nobody-guesses"


@contextmanager
def gateway(addr: str) -> Iterator[str]:
    """Run a gateway to the swarm of a peer at `addr`; usually it runs by itself, for many programs."""
    command = [sys.executable, "-m", "swarm.gateway", "--initial-peers", addr, "--port", "0", "--api-key", KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            words = process.stdout.readline().split()  # ready url=http://127.0.0.1:PORT models=...
            yield words[1].removeprefix("url=")
        finally:
            process.terminate()


def main(addr: str) -> None:
    """List the models, then stream an answer."""
    with gateway(addr) as url, OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        (model,) = client.models.list().data
        print(f"{model.id}:", end=" ")
        answer = client.chat.completions.create(
            model=model.id,
            messages=[{"role": "user", "content": "Please name the capital of France."}],
            temperature=0,
            max_tokens=24,
            stream=True,
        )
        for chunk in answer:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1])
