"""Chat with a kept session: each turn computes only what is new. `python examples/chat.py ADDR`."""

import sys

from swarm import AutoModelForCausalLM, AutoTokenizer


def main(addr: str) -> None:
    """Read lines from stdin until it ends; answer each with the whole conversation in mind."""
    tokenizer = AutoTokenizer.from_pretrained()
    model = AutoModelForCausalLM.from_pretrained(initial_peers=[addr])
    conversation = []
    with model.inference_session() as session:
        for line in sys.stdin:
            conversation.append({"role": "user", "content": line.strip()})
            prompt = tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, return_tensors="pt", return_dict=False
            )
            # The prompt is the whole conversation; the session knows which part its servers hold already.
            output = model.generate(prompt, max_new_tokens=40, do_sample=False)
            answer = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
            conversation.append({"role": "assistant", "content": answer})
            print(f"{answer}\n[{session.position} tokens held by the servers]", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
