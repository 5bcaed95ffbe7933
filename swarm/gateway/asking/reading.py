"""Reading the two kinds of requests; each parameter of the OpenAI API is read, passed over on purpose, or refused."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.gateway.asking.fields import Fields, is_number
from swarm.gateway.asking.messages import read_messages
from swarm.gateway.asking.parameters import Asked, Chat, Completion, Prompt, Sampling
from swarm.gateway.faults import Refused

MAX_TEXTS = 16
"""For one prompt."""

MAX_PROMPTS = 64
"""Texts of one request: they are prompts times texts for each."""

MAX_STOPS, MAX_STOP_LENGTH = 4, 500
"""Strings, and characters of each."""

MAX_BIASES = 1024
MAX_NEW_TOKENS = 1 << 24
MAX_TOP_CHAT, MAX_TOP_COMPLETION = 20, 5
MAX_NAME = 256

LEAST_TEMPERATURE = 0.01
"""Anything smaller but 0 is taken for this: logits divided by less leave the range of float32."""

COMPLETION_TOKENS = 16
"""What the API's completions make where nobody says how many."""

_ANYTHING = ("user", "metadata", "safety_identifier", "prompt_cache_key")
"""They tell OpenAI about the sender, or where to look for a cache: they change nothing in an answer."""

_NO_TOOLS = "tools are not called here; describe them in a message"

_UNSUPPORTED: dict[str, tuple[tuple[object, ...], str]] = {
    "service_tier": (("auto", "default"), "there is one tier"),
    "store": ((False,), "answers are not kept"),
    "modalities": ((["text"],), "answers are text"),
    "response_format": (({"type": "text"},), "answers are text, no grammar is enforced"),
    "tools": (([],), _NO_TOOLS),
    "tool_choice": (("none", "auto"), _NO_TOOLS),
    "parallel_tool_calls": ((False, True), _NO_TOOLS),
    "functions": (([],), _NO_TOOLS),
    "function_call": (("none", "auto"), _NO_TOOLS),
    "audio": ((), "answers are text"),
    "prediction": ((), "guesses of the answer are not used"),
    "reasoning_effort": ((), "the model's template decides how it thinks"),
    "verbosity": ((), "say so in a message"),
    "web_search_options": ((), "nothing is looked up"),
    "moderation": ((), "nothing is moderated"),
    "prompt_cache_options": ((), "what servers keep is their own affair"),
    "prompt_cache_retention": ((), "what servers keep is their own affair"),
}
"""Of chats: the values that ask for nothing special, and why there are no others."""


def read_chat(values: Mapping[str, object]) -> Chat:
    """Read the body of /v1/chat/completions.

    Raises:
        Refused: A parameter is unknown, unsupported or wrong; it is named.
    """
    fields = Fields(values)
    messages = read_messages(fields)
    for name, (allowed, why) in _UNSUPPORTED.items():
        fields.only(name, allowed, why)
    max_tokens = fields.integer("max_tokens", 1, MAX_NEW_TOKENS)
    newer = fields.integer("max_completion_tokens", 1, MAX_NEW_TOKENS)
    if max_tokens is not None and newer is not None and max_tokens != newer:
        raise fields.wrong("max_completion_tokens", newer, "the same as max_tokens, or leave that out")
    wants_logprobs = fields.flag("logprobs")
    num_top = fields.integer("top_logprobs", 0, MAX_TOP_CHAT)
    if num_top is not None and not wants_logprobs:
        raise fields.wrong("top_logprobs", num_top, "logprobs: true with it")
    asked = _asked(fields, max_tokens or newer, (num_top or 0) if wants_logprobs else None)
    fields.end()
    return Chat(asked=asked, messages=messages)


def read_completion(values: Mapping[str, object]) -> Completion:
    """Read the body of /v1/completions.

    Raises:
        Refused: A parameter is unknown, unsupported or wrong; it is named.
    """
    fields = Fields(values)
    prompts = _prompts(fields)
    fields.only("suffix", ("",), "texts are continued at their end")
    echoes = fields.flag("echo")
    num_top = fields.integer("logprobs", 0, MAX_TOP_COMPLETION)
    if echoes and num_top is not None:
        raise fields.wrong("echo", True, "false with logprobs: they are not computed of prompts")
    best_of = fields.integer("best_of", 1, MAX_TEXTS)
    asked = _asked(fields, fields.integer("max_tokens", 1, MAX_NEW_TOKENS) or COMPLETION_TOKENS, num_top)
    if best_of not in (None, asked.num_texts):
        raise Refused(
            f"best_of of {best_of} is not supported: all texts that are made are sent; leave it out",
            param="best_of",
            fault="unsupported_parameter",
        )
    if len(prompts) * asked.num_texts > MAX_PROMPTS:
        raise fields.wrong("n", asked.num_texts, f"at most {MAX_PROMPTS} texts in all, for {len(prompts)} prompts")
    fields.end()
    return Completion(asked=asked, prompts=prompts, echoes=echoes)


def _asked(fields: Fields, max_tokens: int | None, num_top: int | None) -> Asked:
    for name in _ANYTHING:
        fields.take(name)
    model = fields.text("model", MAX_NAME)
    if not model:
        raise Refused(
            "model is missing: GET /v1/models tells which there are", param="model", fault="missing_parameter"
        )
    is_streamed = fields.flag("stream")
    num_texts = fields.integer("n", 1, MAX_TEXTS) or 1
    return Asked(
        model=model,
        sampling=_sampling(fields),
        max_tokens=max_tokens,
        stop=_stop(fields),
        num_texts=num_texts,
        num_top=num_top,
        is_streamed=is_streamed,
        tells_usage=_tells_usage(fields, is_streamed),
    )


def _sampling(fields: Fields) -> Sampling:
    temperature = fields.number("temperature", 0, 2)
    return Sampling(
        temperature=max(temperature, LEAST_TEMPERATURE) if temperature else temperature,
        top_p=fields.number("top_p", 0, 1),
        top_k=_top_k(fields),
        min_p=fields.number("min_p", 0, 1),
        frequency_penalty=fields.number("frequency_penalty", -2, 2) or 0.0,
        presence_penalty=fields.number("presence_penalty", -2, 2) or 0.0,
        repetition_penalty=fields.number("repetition_penalty", 0.01, 10),
        logit_bias=_logit_bias(fields),
        seed=fields.integer("seed", -(2**63), 2**63 - 1),
        ignores_end=fields.flag("ignore_eos"),
    )


def _top_k(fields: Fields) -> int | None:
    value = fields.integer("top_k", -1, 2**31 - 1)
    return None if value is None else max(0, value)  # -1 is how vLLM's clients write "all"


def _logit_bias(fields: Fields) -> dict[int, float]:
    value = fields.take("logit_bias")
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_BIASES:
        raise fields.wrong("logit_bias", value, f"an object of at most {MAX_BIASES} token ids and numbers")
    biases: dict[int, float] = {}
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise fields.wrong("logit_bias", token, "token ids as keys")
        if not is_number(bias) or not -100 <= bias <= 100:
            raise fields.wrong("logit_bias", bias, "numbers from -100 to 100")
        biases[int(token)] = float(bias)
    return biases


def _stop(fields: Fields) -> tuple[str, ...]:
    value = fields.take("stop")
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_STOPS:
        raise fields.wrong("stop", value, f"at most {MAX_STOPS} strings")
    stops = tuple(fields.as_text("stop", each, MAX_STOP_LENGTH) for each in values)
    if "" in stops:
        raise fields.wrong("stop", "", "strings that are not empty")
    return stops


def _tells_usage(fields: Fields, is_streamed: bool) -> bool:
    options = fields.within("stream_options")
    if options is None:
        return False
    if not is_streamed:
        raise Refused("stream_options needs stream: true", param="stream_options", fault="invalid_value")
    tells_usage = options.flag("include_usage")
    options.only("include_obfuscation", (False,), "chunks are not padded")
    options.end()
    return tells_usage


def _prompts(fields: Fields) -> tuple[Prompt, ...]:
    value = fields.take("prompt")
    if value is None:
        raise Refused("prompt is missing: give a string, tokens, or a list of these", param="prompt")
    if isinstance(value, str):
        return (fields.as_text("prompt", value),)
    if not isinstance(value, list) or not value:
        raise fields.wrong("prompt", value, "a string, token ids, or a list of these")
    if all(isinstance(each, int) for each in value):
        return (_tokens(fields, value),)
    if len(value) > MAX_PROMPTS:
        raise fields.wrong("prompt", value, f"at most {MAX_PROMPTS} prompts")
    return tuple(_tokens(fields, each) if isinstance(each, list) else fields.as_text("prompt", each) for each in value)


def _tokens(fields: Fields, value: list[object]) -> tuple[int, ...]:
    tokens = tuple(each for each in value if isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 2**31)
    if len(tokens) != len(value) or not tokens:
        raise fields.wrong("prompt", value, "token ids, at least one")
    return tokens
