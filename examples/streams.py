"""Several texts at the same time, token by token, on one event loop: `python examples/streams.py ADDR`."""

import asyncio
import sys

from swarm import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ["The sea is", "My favourite number is seven because", "Once upon a time, in a small village,"]


async def main(addr: str) -> None:
    """Read all texts as they grow; each is what `generate()` gives for its prompt alone."""
    tokenizer = AutoTokenizer.from_pretrained()
    model = await asyncio.to_thread(AutoModelForCausalLM.from_pretrained, initial_peers=[addr])

    async def read(prompt: str) -> str:
        ids = tokenizer(prompt)["input_ids"]
        async for token_id in model.stream(ids, max_new_tokens=16, do_sample=False):
            ids.append(token_id)
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    for text in await asyncio.gather(*(read(prompt) for prompt in PROMPTS)):
        print(text.replace("\n", " "))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
