"""Generate text through a swarm: `python examples/generate.py ADDR [PROMPT]`."""

import sys

from transformers import TextStreamer

from swarm import AutoModelForCausalLM, AutoTokenizer


def main(addr: str, prompt: str = "Name three large rivers of Europe.") -> None:
    """Ask one question and print the answer as it comes."""
    tokenizer = AutoTokenizer.from_pretrained()
    model = AutoModelForCausalLM.from_pretrained(initial_peers=[addr])
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model.generate(
        **inputs,
        max_new_tokens=60,
        do_sample=False,
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
    )
    print(model.explain())


if __name__ == "__main__":
    main(*sys.argv[1:3])
