"""Several prompts at once, of uneven length: `python examples/batch.py ADDR`."""

import sys

from swarm import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ["The sea is", "My favourite number is seven because", "Once upon a time, in a small village,"]


def main(addr: str) -> None:
    """Continue all prompts in one padded batch; padding never leaves this process."""
    tokenizer = AutoTokenizer.from_pretrained(padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(initial_peers=[addr])
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    for text in tokenizer.batch_decode(output, skip_special_tokens=True):
        print(text.replace("\n", " "))


if __name__ == "__main__":
    main(sys.argv[1])
