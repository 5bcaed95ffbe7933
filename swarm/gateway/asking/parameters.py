"""What a request asks for, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Prompt = str | tuple[int, ...]
"""Text, or the tokens themselves."""

Message = Mapping[str, str]
"""Who says what: `role`, `content`, and `name` if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; None is the model's own choice (`generation_config.json`), else the API's default.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: Share of the probability that is drawn from.
        top_k: Number of tokens that are drawn from; 0 is all.
        min_p: Share of the likeliest token's probability that a token needs.
        frequency_penalty: Taken off a token's logit for each time that the answer has it.
        presence_penalty: Taken off once if the answer has it.
        repetition_penalty: Divides the logits of what prompt and answer have.
        logit_bias: Added to the logits of tokens.
        seed: Makes draws repeatable.
        ignores_end: Whether the text goes on over the model's end tokens.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    ignores_end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What chats and completions have in common.

    Attributes:
        model: Its name.
        sampling: See `Sampling`.
        max_tokens: New ones; None is as many as the context holds.
        stop: Strings that end a text, and are no part of it.
        num_texts: How many for each prompt.
        num_top: Likeliest tokens that are told with each one; None if not even its own likelihood is.
        is_streamed: Whether text is sent as it comes.
        tells_usage: Whether a stream ends with the counts of tokens.
    """

    model: str
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    num_texts: int
    num_top: int | None
    is_streamed: bool
    tells_usage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation that the model goes on with.

    Attributes:
        asked: What completions have, too.
        messages: What was said.
    """

    asked: Asked
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Texts that the model goes on with.

    Attributes:
        asked: What chats have, too.
        prompts: The beginnings.
        echoes: Whether each answer begins with its prompt.
    """

    asked: Asked
    prompts: tuple[Prompt, ...]
    echoes: bool
