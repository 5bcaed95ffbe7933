"""What was said so far, as messages and as the prompt that they make."""

from __future__ import annotations

from typing import Any

from swarm.errors import PromptTooLong, UsageError

MIN_ROOM = 16
"""Tokens that an answer must have room for: fewer are no answer."""


class Conversation:
    """Messages in turn, and what the model is told before them.

    Attributes:
        system: That; empty if nothing is.
        messages: {"role": "user" or "assistant", "content": text}, oldest first.
        num_forgotten: Of them, the oldest ones that the last prompt had no room for.
    """

    def __init__(self, tokenizer: Any, context: int, system: str = "") -> None:
        self._tokenizer = tokenizer
        self._context = context
        self.system = system
        self.messages: list[dict[str, str]] = []
        self.num_forgotten = 0

    def ask(self, text: str) -> None:
        """Add a question; one that got no answer gives way."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()
        self.messages.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Add the answer to the last question."""
        self.messages.append({"role": "assistant", "content": text})

    def reopen(self) -> bool:
        """Take back the last answer, so that the question before stands open; False if there is none."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        return bool(self.messages)

    def reset(self) -> None:
        """Forget what was said."""
        self.messages.clear()
        self.num_forgotten = 0

    def prompt(self, max_tokens: int) -> tuple[list[int], int]:
        """Return the prompt's token ids, and how many new tokens it leaves room for, at most `max_tokens`.

        Where the context is too small, the oldest turns are left out.

        Raises:
            PromptTooLong: The last question alone is too long.
            UsageError: The model has no chat template, or its template takes no such messages.
        """
        room = min(max_tokens, MIN_ROOM)
        begins = [index for index, message in enumerate(self.messages) if message["role"] == "user"]
        for begin in begins:
            ids = self._ids(self.messages[begin:])
            if len(ids) + room <= self._context:
                self.num_forgotten = begin
                return ids, min(max_tokens, self._context - len(ids))
        raise PromptTooLong(
            f"the question makes {len(ids)} tokens, the model's context is {self._context}: say it in fewer words"
        )

    def _ids(self, messages: list[dict[str, str]]) -> list[int]:
        before = [{"role": "system", "content": self.system}] if self.system else []
        if not getattr(self._tokenizer, "chat_template", None):
            raise UsageError("this model has no chat template: it continues texts, and cannot hold a conversation")
        try:
            ids = self._tokenizer.apply_chat_template(
                [*before, *messages], add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # whatever a model's own template raises
            raise UsageError(f"the model's chat template does not take this: {error}") from error
        return [int(token) for token in ids]
