"""Where the layers of a model of transformers stand, so that some of them run and the others do not."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Course:
    """Which layers a pass goes through, and what it carries.

    Attributes:
        first: First layer to run.
        last: One after the last.
        entering: (B, T, D) put in before the layer `first`; None leaves what the model itself made.
        leaving: (B, T, D) that leave the last layer of all; None leaves what the layers made.
        result: (B, T, D) as they came out of the layer `last` - 1; with no layer to run, as they came to layer 0.
    """

    def __init__(self) -> None:
        self.first = self.last = 0
        self.entering: Tensor | None = None
        self.leaving: Tensor | None = None
        self.result: Tensor | None = None


class Stage(nn.Module):
    """One layer's place in the list of layers; to the model it looks like the layer."""

    def __init__(self, layer: nn.Module, index: int, count: int, course: Course, *, is_tuple: bool) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # not a submodule: most layers never get weights
        self._index, self._is_last, self._course, self._is_tuple = index, index == count - 1, course, is_tuple

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)

    def forward(self, *args: Any, **options: Any) -> Any:
        """Run the layer if it is wanted; arguments and result are the layer's."""
        course = self._course
        hidden = args[0] if args else options.pop("hidden_states")
        if course.first == course.last == self._index == 0:
            course.result = hidden
        if course.first <= self._index < course.last:
            if self._index == course.first and course.entering is not None:
                hidden = course.entering
            hidden = hidden_of(self.__dict__["layer"](hidden, *args[1:], **options))
            if self._index == course.last - 1:
                course.result = hidden
        if self._is_last and course.leaving is not None:
            hidden = course.leaving
        return (hidden, None) if self._is_tuple else hidden


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states of what a layer gave back: them, or a tuple that begins with them."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
