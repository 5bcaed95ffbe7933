"""Generate text in a private swarm: `python examples/private_swarm.py ADDR KEY_FILE`.

Where the swarm was joined with `swarm join`, `from_pretrained()` needs neither.
"""

import sys

from swarm import AutoModelForCausalLM, AutoTokenizer
from swarm.errors import WrongSwarmKey


def main(addr: str, key_file: str) -> None:
    """Ask one question, first with the key and then without."""
    tokenizer = AutoTokenizer.from_pretrained()
    model = AutoModelForCausalLM.from_pretrained(initial_peers=[addr], swarm_key=key_file)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Please name the capital of France."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, max_new_tokens=30, do_sample=False)
    print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    try:
        AutoModelForCausalLM.from_pretrained(initial_peers=[addr])
    except WrongSwarmKey as error:
        print("without the key:", error)


if __name__ == "__main__":
    main(*sys.argv[1:3])
