"""What transformers' files call the tensors of its models: some are renamed, or cut in parts (experts), on the way.

transformers' own tables of such conversions are used, in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    apply_converters,
    apply_renamings,
    dot_natural_key,
    revert_weight_conversion,
)


class StoredNames:
    """Names of one model's tensors."""

    def __init__(self, model: PreTrainedModel) -> None:
        changes = [
            change
            for change in get_model_conversion_mapping(model, add_legacy=False)
            if not isinstance(change, PrefixChange)
        ]
        self._model = model
        self._renamings = [change for change in changes if isinstance(change, WeightRenaming)]
        self._converters = [change for change in changes if isinstance(change, WeightConverter)]

    def in_file(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's tensors as files hold them; works without numbers, for names and shapes."""
        stored: dict[str, Tensor] = revert_weight_conversion(self._model, dict(tensors))
        return stored

    def in_model(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of a file as the model holds them; all parts of a tensor must be among them."""
        if not self._renamings and not self._converters:
            return dict(tensors)
        by_pattern = {pattern: converter for converter in self._converters for pattern in converter.source_patterns}
        changes: dict[str, Any] = {}
        for stored in sorted(tensors, key=dot_natural_key):
            name, pattern = apply_converters(apply_renamings(stored, self._renamings), self._converters)
            fresh = WeightRenaming(stored, name) if pattern is None else deepcopy(by_pattern[pattern])
            changes.setdefault(name, fresh).add_tensor(name, stored, pattern or stored, tensors[stored])
        found: dict[str, Tensor] = {}
        for name, change in changes.items():
            for target, parts in change.convert(name, model=self._model, config=self._model.config).items():
                found[target] = parts[0] if isinstance(parts, list) else parts
        return found
