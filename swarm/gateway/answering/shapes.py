"""The form that the API gives to answers: whole ones and chunks, of chats and of completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from swarm.gateway.answering.spelling import Alphabet
from swarm.gateway.answering.writing import Piece, Written

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request; each prompt counts once, however many texts follow it."""

    prompt: int
    answer: int

    def body(self) -> Json:
        """Return it as the API does."""
        total = self.prompt + self.answer
        return {"prompt_tokens": self.prompt, "completion_tokens": self.answer, "total_tokens": total}


@dataclass(slots=True)
class Text:
    """A text of the answer as it is so far, with the prompt if that is echoed."""

    text: str = ""
    written: list[Written] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: Piece) -> None:
        """Go on."""
        self.text += piece.text
        self.written += piece.written
        self.finish = piece.finish


class Shape:
    """Makes the JSON of one answer; see its two kinds.

    Attributes:
        answer_id: Names the answer, also to /api/v1/route.
    """

    kind = ""
    chunk_kind = ""
    prefix = ""

    def __init__(self, model: str, fingerprint: str, alphabet: Alphabet, *, tells_likelihoods: bool) -> None:
        self.answer_id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.tells_likelihoods = tells_likelihoods
        self._alphabet = alphabet
        self._head = {"created": int(time.time()), "model": model, "system_fingerprint": f"fp_{fingerprint[:12]}"}

    def answer(self, texts: Sequence[Text], usage: Usage) -> Json:
        """Return the whole answer."""
        choices = [self._choice(index, text) for index, text in enumerate(texts)]
        return {**self._named(self.kind), "choices": choices, "usage": usage.body()}

    def chunk(self, choices: list[Json], *, tells_usage: bool, usage: Usage | None = None) -> Json:
        """Return one event of a stream.

        Args:
            choices: Of `first` and `next`; none in the event that tells the usage.
            tells_usage: Whether the stream ends with the counts: then each event has a place for them.
            usage: The counts.
        """
        chunk = {**self._named(self.chunk_kind), "choices": choices}
        return {**chunk, "usage": None if usage is None else usage.body()} if tells_usage else chunk

    def first(self, index: int, echoed: str) -> Json | None:
        """Return what a text begins with in a stream, if anything."""
        raise NotImplementedError

    def next(self, index: int, piece: Piece, offset: int) -> Json:
        """Return a piece of a text, before which there are `offset` characters of the prompt."""
        raise NotImplementedError

    def _choice(self, index: int, text: Text) -> Json:
        raise NotImplementedError

    def _named(self, kind: str) -> Json:
        return {"id": self.answer_id, "object": kind, **self._head}

    def _name(self, token: int) -> tuple[str, bytes]:
        return self._alphabet.name(token)


class ChatShape(Shape):
    """Of /v1/chat/completions."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def first(self, index: int, echoed: str) -> Json:
        """Say who speaks."""
        return self._delta(index, {"role": "assistant", "content": ""})

    def next(self, index: int, piece: Piece, offset: int) -> Json:
        """Return a piece of what is said."""
        delta = {"content": piece.text} if piece.text or not piece.finish else {}
        return self._delta(index, delta, self._logprobs(piece.written), piece.finish)

    def _choice(self, index: int, text: Text) -> Json:
        message = {"role": "assistant", "content": text.text, "refusal": None}
        logprobs = self._logprobs(text.written)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": text.finish}

    def _delta(self, index: int, delta: Json, logprobs: Json | None = None, finish: str | None = None) -> Json:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, written: Sequence[Written]) -> Json | None:
        if not self.tells_likelihoods:
            return None
        return {"content": [self._told(each) for each in written], "refusal": None}

    def _told(self, written: Written) -> Json:
        top = [self._one(token, logprob) for token, logprob in written.likelihood.top]
        return {**self._one(written.token, written.likelihood.logprob), "top_logprobs": top}

    def _one(self, token: int, logprob: float) -> Json:
        name, raw = self._name(token)
        return {"token": name, "logprob": logprob, "bytes": list(raw)}


class CompletionShape(Shape):
    """Of /v1/completions."""

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"

    def first(self, index: int, echoed: str) -> Json | None:
        """Repeat the prompt, if that was asked."""
        return self._part(index, echoed, None, None) if echoed else None

    def next(self, index: int, piece: Piece, offset: int) -> Json:
        """Return a piece of the text."""
        return self._part(index, piece.text, self._logprobs(piece.written, offset), piece.finish)

    def _choice(self, index: int, text: Text) -> Json:
        return self._part(index, text.text, self._logprobs(text.written, 0), text.finish)

    def _part(self, index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, written: Sequence[Written], offset: int) -> Json | None:
        if not self.tells_likelihoods:
            return None
        return {
            "tokens": [self._name(each.token)[0] for each in written],
            "token_logprobs": [each.likelihood.logprob for each in written],
            "top_logprobs": [self._top(each) for each in written],
            "text_offset": [offset + each.offset for each in written],
        }

    def _top(self, written: Written) -> dict[str, float] | None:
        if not written.likelihood.top:
            return None
        named = {self._name(token)[0]: logprob for token, logprob in written.likelihood.top}
        return {**named, self._name(written.token)[0]: written.likelihood.logprob}
