"""A model of transformers without its weights: how models that we have no family for are run.

transformers' own forward pass makes masks, rotations and whatever else a layer is given, so nothing of that is
repeated here. Each layer stands on a `Stage`, which lets the hidden states pass by layers that are not wanted, puts
in the ones that come from the peer before, and takes out those for the peer after. A server fills the layers of its
span with weights; a client fills what lies before and after the layers.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.cache_utils import Cache
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from swarm.blocks.generic.kept_layer import KeptLayer
from swarm.blocks.generic.stages import Course, Stage, hidden_of
from swarm.blocks.generic.stored_names import StoredNames
from swarm.errors import UnsupportedModel

_NEEDED = ("inputs_embeds", "position_ids", "past_key_values", "use_cache")
"""What a model's forward must take: one without positions has them in its masks, one without a cache is recurrent."""

_MOST_LAYERS = 1024
"""Several times the deepest model's: each one is built, if without numbers, when a checkpoint is opened."""

_FAULTS = (AttributeError, TypeError, ValueError, RuntimeError, LookupError, ImportError, StrictDataclassError)
"""What transformers raises over a configuration, or over a model that is not like others."""


class Skeleton:
    """One model on the meta device, its layers on stages.

    Attributes:
        config: transformers' configuration.
        model: The causal language model.
        layers: The layers themselves.
        prefix: Of the layers' names in the model, such as "gpt_neox.layers.".
        block_shapes: Of one layer's tensors, by the files' names without prefix.
        end_names: Names of the tensors outside the layers, those of one tensor together: the files' name first, a name
            of the model's last.
        course: What the next `run` does.
        dtype: Of weights and hidden states.
        num_kv_heads: K.
        head_size: E.
    """

    def __init__(self, settings: str, dtype: torch.dtype, *, source: object) -> None:
        """Build it; `settings` is the `config.json`, `source` names the file.

        Raises:
            UnsupportedModel: transformers does not know it, or it is not a list of layers over keys and values.
        """
        self._source, self._kind = source, json.loads(settings).get("model_type")
        with self._refusing():
            self.config = model_config(settings, source=source)
            if not 0 < (count := self.config.get_text_config().num_hidden_layers) <= _MOST_LAYERS:
                raise self._refuse(f"{count} layers; the limit is {_MOST_LAYERS}")
            with torch.device("meta"):
                self.model = AutoModelForCausalLM.from_config(
                    self.config, dtype=dtype, attn_implementation="eager", trust_remote_code=False
                ).eval()
            self._require_arguments()
            self.prefix, stages = self._find_layers()
            self.layers = list(stages)
            self._names = StoredNames(self.model)
            self.block_shapes = self._find_block_shapes()
            self.end_names = self._find_end_names()
            self.course = Course()
            self.num_kv_heads, self.head_size, is_tuple = self._probe()
        self.dtype = dtype
        for index, layer in enumerate(self.layers):
            stages[index] = Stage(layer, index, len(self.layers), self.course, is_tuple=is_tuple)

    @property
    def hidden_size(self) -> int:
        """D, between the layers."""
        return int(self.config.get_text_config().hidden_size)

    @property
    def is_tied(self) -> bool:
        """Whether the head is the embedding."""
        head = self.model.get_output_embeddings()
        return head is not None and head.weight is self.model.get_input_embeddings().weight

    def end_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors outside the layers, by the first of their names."""
        state = self.model.state_dict()
        return {names[0]: tuple(state[names[-1]].shape) or (1,) for names in self.end_names}

    def fill_layer(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Give a layer its numbers: tensors by the files' names, without prefix.

        Raises:
            UnsupportedModel: A buffer that only the constructor fills, whose numbers we cannot know.
        """
        prefix = f"{self.prefix}{index}."
        named = self._names.in_model({prefix + name: tensor for name, tensor in tensors.items()})
        self.fill(self.layers[index], {name.removeprefix(prefix): tensor for name, tensor in named.items()})

    def fill(self, part: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Give `part` and all within it memory and numbers; `tensors` by the names within `part`.

        Raises:
            UnsupportedModel: A buffer that only the constructor fills, whose numbers we cannot know.
        """
        for name, module in part.named_modules():
            self._fill_one(module, _within(name, tensors))

    def fill_ends(self, tensors: Mapping[str, Tensor] | None) -> None:
        """Fill what lies outside the layers; with None, only what a pass cannot do without, with zeros."""
        tables = {id(self.model.get_input_embeddings()), id(self.model.get_output_embeddings())}
        layers = {id(part) for layer in self.layers for part in layer.modules()}
        for name, part in self.model.named_modules():
            own = [*part._parameters.values(), *part._buffers.values()]
            if id(part) in layers or not own or (tensors is None and id(part) in tables):
                continue
            self._fill_one(part, None if tensors is None else _within(name, tensors))

    def run(self, **inputs: Tensor | Cache | bool) -> Any:
        """Run the model without its head; the course says which layers, and takes the result."""
        return self.model.base_model(**inputs)

    def _fill_one(self, module: nn.Module, tensors: Mapping[str, Tensor] | None) -> None:
        """Fill a module's own parameters, with zeros for None, and its buffers."""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if tensors is not None and name not in tensors:
                    raise self._refuse(f"its files do not say what {type(module).__name__}.{name} is")
                shape, dtype = parameter.shape, parameter.dtype
                numbers = torch.zeros(shape, dtype=dtype) if tensors is None else tensors[name].to(dtype).view(shape)
                filled = module._parameters[name] = nn.Parameter(numbers, requires_grad=False)
                filled._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers leaves such alone
        missing = [name for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta]
        for name in missing:
            buffer = module._buffers[name]
            assert buffer is not None
            blank = torch.full(buffer.shape, torch.nan if buffer.is_floating_point() else 0, dtype=buffer.dtype)
            module._buffers[name] = tensors[name].to(buffer.dtype) if tensors and name in tensors else blank
        if missing:
            with torch.no_grad():
                self.model._init_weights(module)
        for name in missing:
            buffer = module._buffers[name]
            if buffer is not None and not bool(buffer.isfinite().all()):
                raise self._refuse(f"{type(module).__name__}.{name} is not in the files; it needs a family of its own")

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn whatever transformers says of this model into one line."""
        try:
            yield
        except UnsupportedModel:
            raise
        except _FAULTS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise self._refuse(f"transformers' own layers cannot be run here ({reason})") from error

    def _refuse(self, reason: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self._source}: {self._kind}: {reason}")

    def _require_arguments(self) -> None:
        taken = inspect.signature(type(self.model.base_model).forward).parameters
        if missing := [name for name in _NEEDED if name not in taken]:
            raise self._refuse(f"its forward takes no {', '.join(missing)} (recurrent, or positions in its masks)")
        if "dynamic" in json.dumps(getattr(self.config, "rope_parameters", None) or {}, default=str):
            raise self._refuse("its rope changes with the longest sequence seen, so one client would change another's")
        if getattr(self.config, "alibi", False):
            raise self._refuse("its positions are in its masks (alibi), which pages do not keep")

    def _find_layers(self) -> tuple[str, nn.ModuleList]:
        count = self.config.get_text_config().num_hidden_layers
        lists = [
            (sum(parameter.numel() for parameter in part.parameters()), name, part)
            for name, part in self.model.named_modules()
            if isinstance(part, nn.ModuleList) and len(part) == count
        ]
        if not lists:
            raise self._refuse(f"no list of its {count} layers")
        _, name, layers = max(lists, key=lambda entry: entry[0])
        shapes = [{key: tensor.shape for key, tensor in layer.state_dict().items()} for layer in layers]
        if any(shape != shapes[0] for shape in shapes):
            raise self._refuse("its layers differ in shape")
        return f"{name}.", layers

    def _find_block_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one layer's tensors, by the files' names without prefix."""
        prefix = f"{self.prefix}0."
        state = {prefix + name: tensor for name, tensor in self.layers[0].state_dict().items()}
        stored = self._names.in_file(state)
        if strange := [name for name in stored if not name.startswith(prefix)]:
            raise self._refuse(f"its files keep {strange[0]}, which is not within {prefix}*")
        return {name.removeprefix(prefix): tuple(tensor.shape) or (1,) for name, tensor in stored.items()}

    def _find_end_names(self) -> list[list[str]]:
        groups: dict[int, list[str]] = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if not name.startswith(self.prefix):
                (stored,) = self._names.in_file({name: tensor})
                groups.setdefault(id(tensor), []).extend(dict.fromkeys((stored, name)))
        return list(groups.values())

    def _probe(self) -> tuple[int, int, bool]:
        """Run two tokens without numbers: K, E, and whether a layer returns a tuple.

        Raises:
            UnsupportedModel: A layer keeps no keys and values, several, or such of unequal shapes.
        """
        kept = [Recorder() for _ in self.layers]
        outputs: list[Any] = []
        hooks = [layer.register_forward_hook(lambda layer, args, out: outputs.append(out)) for layer in self.layers]
        width = self.model.get_input_embeddings().embedding_dim
        dtypes = {parameter: parameter.dtype for parameter in self.model.parameters()}
        with torch.device("meta"), torch.no_grad():
            for parameter in dtypes:  # some operations (experts) take nothing else without numbers
                parameter.data = parameter.data.to(torch.bfloat16)
            embeds = torch.zeros(1, 2, width, dtype=torch.bfloat16)
            self.run(
                inputs_embeds=embeds,
                position_ids=torch.zeros(1, 2, dtype=torch.int64),
                past_key_values=Cache(layers=kept),
                use_cache=True,
            )
            for parameter, dtype in dtypes.items():
                parameter.data = parameter.data.to(dtype)
        for hook in hooks:
            hook.remove()
        shapes = {shape for layer in kept for shape in layer.shapes}
        if any(len(layer.shapes) != 2 for layer in kept) or len(shapes) != 1:
            raise self._refuse("its layers do not all keep keys and values of one shape (recurrent, shared or latent)")
        if any(hidden_of(out).shape != (1, 2, self.hidden_size) for out in outputs):
            raise self._refuse("its layers pass on more than hidden states")
        _, heads, tokens, size = shapes.pop()
        if tokens != 2:
            raise self._refuse(f"its layers keep {tokens} keys for 2 tokens")
        return heads, size, isinstance(outputs[0], tuple)


def _within(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `part`, under the names that they have within it."""
    prefix = f"{part}." if part else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def model_config(settings: str, *, source: object) -> PretrainedConfig:
    """Return transformers' configuration of a `config.json`.

    Raises:
        UnsupportedModel: transformers itself has no decoder-only language model of this name.
    """
    raw = json.loads(settings)
    kind = raw.pop("model_type", None)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedModel(
            f"{source}: architecture {kind!r} is not supported: neither we nor transformers have such a decoder-only "
            "model, and code that comes with a checkpoint is never run"
        )
    if raw.get("is_encoder_decoder"):
        raise UnsupportedModel(f"{source}: {kind}: an encoder and a decoder; supported: decoder-only models")
    return AutoConfig.for_model(kind, **raw)


class Recorder(KeptLayer):
    """Notes the shapes of what would be kept."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Note the shapes; return what came."""
        self.shapes += [tuple(key_states.shape), tuple(value_states.shape)]
        return key_states, value_states
