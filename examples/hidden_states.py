"""Hidden states of a middle block: `python examples/hidden_states.py ADDR`."""

import sys

from swarm import AutoModelForCausalLM, AutoTokenizer


def main(addr: str, text: str = "Paris is the capital of France.") -> None:
    """Run the first half of the model, look at the activations, run the rest."""
    tokenizer = AutoTokenizer.from_pretrained()
    model = AutoModelForCausalLM.from_pretrained(initial_peers=[addr])
    ids = tokenizer(text, return_tensors="pt").input_ids
    middle = len(model.blocks) // 2
    hidden = model.blocks[:middle](model.get_input_embeddings()(ids))  # (1, T, D)
    for token, norm in zip(tokenizer.convert_ids_to_tokens(ids[0]), hidden[0].norm(dim=-1), strict=True):
        print(f"{token:>12}  {norm:8.1f}")
    final = model.blocks[middle:](hidden)
    print(f"after block {middle}: {tuple(hidden.shape)}, after the last: {tuple(final.shape)}")


if __name__ == "__main__":
    main(sys.argv[1])
