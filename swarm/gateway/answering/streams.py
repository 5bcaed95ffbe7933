"""From what is asked to streams of the client: prompts are tokenised, options translated, lengths checked.

All of it takes milliseconds, a long prompt tens of them, so it runs on the model's own thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import LogitsProcessorList

from swarm.client import SwarmForCausalLM, TokenStream
from swarm.gateway.answering.processors import AnswerPenalties, Biases
from swarm.gateway.asking import Asked, Chat, Completion, Sampling
from swarm.gateway.asking.parameters import Prompt
from swarm.gateway.faults import Refused

MAX_CHARACTERS_PER_TOKEN = 64
"""A prompt longer than the context by this is not even tokenised: no tokenizer has so long words on the average."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A prompt, ready.

    Attributes:
        tokens: What the model sees.
        text: What an answer that echoes it begins with.
    """

    tokens: tuple[int, ...]
    text: str = ""


def chat_beginning(chat: Chat, tokenizer: Any, context: int) -> Beginning:
    """Return a conversation as the model's own template writes it.

    Raises:
        Refused: The model has no template, or it refuses these messages, or they are too long.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise Refused("this model has no chat template: use /v1/completions", param="model", fault="no_chat_template")
    _require_fit(sum(len(message["content"]) for message in chat.messages), context, "messages")
    try:
        text = tokenizer.apply_chat_template(list(chat.messages), add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template is a program that came with the model
        reason = " ".join(str(error).split())[:200]
        raise Refused(f"the model's chat template refuses these messages: {reason}", param="messages") from error
    return Beginning(_checked(tokenizer(text, add_special_tokens=False)["input_ids"], context, "messages"))


def completion_beginnings(completion: Completion, tokenizer: Any, context: int) -> tuple[Beginning, ...]:
    """Return the prompts of a completion as tokens.

    Raises:
        Refused: A prompt is empty, or too long.
    """
    return tuple(_beginning(prompt, completion.echoes, tokenizer, context) for prompt in completion.prompts)


def open_stream(model: SwarmForCausalLM, beginning: Beginning, asked: Asked, index: int) -> TokenStream:
    """Return the stream of one text; it begins when it is read.

    Args:
        model: Who continues.
        beginning: The prompt.
        asked: How to go on.
        index: Which of several texts: with a seed each has its own, counted on from it.

    Raises:
        Refused: The texts cannot be so long.
        TokenOutOfRange: The prompt has a token that the model does not know.
    """
    room = model.context_length + 1 - len(beginning.tokens)  # the last token is chosen, but never sent
    if asked.max_tokens is not None and asked.max_tokens > room:
        raise Refused(
            f"the prompt has {len(beginning.tokens)} tokens and max_tokens is {asked.max_tokens}, the model's context "
            f"is {model.context_length}: shorten the prompt or lower max_tokens",
            param="max_tokens",
            fault="context_length_exceeded",
        )
    options = _options(model, asked.sampling, len(beginning.tokens))
    seed = asked.sampling.seed
    if seed is not None:
        options["seed"] = seed + index if seed + index < 2**63 else index
    return model.stream(
        beginning.tokens, max_new_tokens=asked.max_tokens or room, num_logprobs=asked.num_top, **options
    )


def _beginning(prompt: Prompt, echoes: bool, tokenizer: Any, context: int) -> Beginning:
    if isinstance(prompt, str):
        _require_fit(len(prompt), context, "prompt")
        tokens = tokenizer(prompt)["input_ids"]
    else:
        tokens = prompt
    text = ""
    if echoes:
        text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt, clean_up_tokenization_spaces=False)
    return Beginning(_checked(tokens, context, "prompt"), text)


def _require_fit(characters: int, context: int, param: str) -> None:
    if characters > context * MAX_CHARACTERS_PER_TOKEN:
        raise Refused(
            f"{param} of {characters} characters: the model's context is {context} tokens",
            param=param,
            fault="context_length_exceeded",
        )


def _checked(tokens: Sequence[int], context: int, param: str) -> tuple[int, ...]:
    if not tokens:
        raise Refused(f"{param} has no tokens: give at least one", param=param, fault="invalid_value")
    if len(tokens) > context:
        raise Refused(
            f"{param} of {len(tokens)} tokens: the model's context is {context}",
            param=param,
            fault="context_length_exceeded",
        )
    return tuple(tokens)


def _options(model: SwarmForCausalLM, sampling: Sampling, prompt_length: int) -> dict[str, Any]:
    """Return what `generate` calls these; what is not asked for is as the model's files say, else as the API does."""
    own = model.generation_config
    temperature = _first(sampling.temperature, own.temperature, 1.0)
    options: dict[str, Any] = {
        "do_sample": temperature > 0,
        "repetition_penalty": _first(sampling.repetition_penalty, own.repetition_penalty, 1.0),
    }
    if options["do_sample"]:
        options["temperature"] = temperature
        options["top_p"] = _first(sampling.top_p, own.top_p, 1.0)
        options["top_k"] = _first(sampling.top_k, own.top_k, 0)
        options["min_p"] = _first(sampling.min_p, own.min_p, None)
    if sampling.ignores_end:
        options["eos_token_id"] = []
    processors = LogitsProcessorList()
    if sampling.logit_bias:
        if unknown := [token for token in sampling.logit_bias if token >= model.config.vocab_size]:
            raise Refused(f"logit_bias: there is no token {unknown[0]}", param="logit_bias", fault="invalid_value")
        processors.append(Biases(sampling.logit_bias))
    if sampling.frequency_penalty or sampling.presence_penalty:
        frequency, presence = sampling.frequency_penalty, sampling.presence_penalty
        processors.append(AnswerPenalties(prompt_length, frequency=frequency, presence=presence))
    if processors:
        options["logits_processor"] = processors
    return options


def _first(*values: Any) -> Any:
    """Return the first value that is told."""
    return next((value for value in values if value is not None), None)
