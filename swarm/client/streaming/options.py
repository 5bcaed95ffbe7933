"""What a stream is asked for: transformers' options of `generate`, read by transformers' own code.

What one text at a time cannot do is refused here, at the call, and not when the first token is awaited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from swarm.client.streaming.choosing import Choice, Text, split_criteria
from swarm.client.streaming.likelihood import MAX_TOP
from swarm.errors import LocalError, PromptTooLong, UsageError

if TYPE_CHECKING:
    from swarm.client.model import SwarmForCausalLM

_REFUSED = {
    "assistant_model": "drafts are not verified in a stream",
    "assistant_tokenizer": "drafts are not verified in a stream",
    "custom_generate": "a stream chooses its tokens in one way",
    "inputs": "give input_ids",
    "inputs_embeds": "a stream begins with token ids",
    "negative_prompt_attention_mask": "guidance needs a second run of the model",
    "negative_prompt_ids": "guidance needs a second run of the model",
    "past_key_values": "a stream opens a session of its own, which finds what the servers still hold",
    "session": "a stream opens a session of its own, which finds what the servers still hold",
    "streamer": "the stream itself is one",
    "synced_gpus": "there are no GPUs to keep in step",
    "trust_remote_code": "code that comes with a model is never run here",
}
"""Options of `generate` that a stream has no use for, and why."""

_OUTPUTS = ("output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a stream is to do.

    Attributes:
        text: The prompt, and how it goes on.
        tokens: Those of the prompt that the model sees, padding left out.
    """

    text: Text
    tokens: list[int]


def read_options(
    model: SwarmForCausalLM, input_ids: Tensor | Sequence[int], options: dict[str, Any], *, context: int
) -> Asked:
    """Check everything that can be checked before a server is asked.

    Args:
        model: Whose generation configuration holds the defaults.
        input_ids: (S,) or (1, S).
        options: Those of `generate`, `seed` and `num_logprobs`.
        context: Tokens that the model can hold.

    Raises:
        UsageError: An option is unknown or wrong, or asks for more than one text.
        PromptTooLong: Prompt and new tokens are more than the model's context.
    """
    ids = _prompt(input_ids)
    rest = dict(options)
    for name, why in _REFUSED.items():
        if rest.pop(name, None) is not None:
            raise UsageError(f"stream() takes no {name}: {why}")
    try:
        return _asked(model, ids, rest, context)
    except LocalError:
        raise
    except (ValueError, TypeError) as error:  # transformers' way to refuse
        raise UsageError(str(error)) from error


def _asked(model: SwarmForCausalLM, ids: Tensor, rest: dict[str, Any], context: int) -> Asked:
    seed, tokenizer, mask = (rest.pop(name, None) for name in ("seed", "tokenizer", "attention_mask"))
    num_top = _num_top(rest.pop("num_logprobs", None))
    own_processors = rest.pop("logits_processor", None) or LogitsProcessorList()
    own_criteria = rest.pop("stopping_criteria", None) or StoppingCriteriaList()
    allowed = rest.pop("prefix_allowed_tokens_fn", None)
    config = _config(model, ids, rest)
    valid = _valid(model, ids, config, mask)
    processors = model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=ids.shape[1],
        encoder_input_ids=ids,
        prefix_allowed_tokens_fn=allowed,
        logits_processor=own_processors,
        device=ids.device,
        model_kwargs={} if bool(valid.all()) else {"attention_mask": valid.long()},
    )
    criteria = model._get_stopping_criteria(config, own_criteria, tokenizer=tokenizer)
    end_tokens, own_length, others = split_criteria(criteria)
    max_length = own_length or config.max_length  # the user's own criterion takes the place of the option
    if max_length - 1 > context:
        raise PromptTooLong(
            f"prompt and new tokens together are {max_length}, the model's context is {context}: "
            "shorten the prompt or lower max_new_tokens"
        )
    choice = Choice(
        processors=processors,
        generator=_generator(seed) if config.do_sample else None,
        max_length=max_length,
        end_tokens=end_tokens,
        criteria=others,
        num_top=num_top,
    )
    return Asked(Text(ids[0].tolist(), choice), ids[valid].tolist())


def _config(model: SwarmForCausalLM, ids: Tensor, rest: dict[str, Any]) -> GenerationConfig:
    """Return the configuration as `generate` would make it, tokens and lengths prepared."""
    given = rest.pop("generation_config", None)
    known = [each for each in (given, model.generation_config) if each is not None]
    has_default = {
        name: rest.get(name) is None and all(getattr(each, name) is None for each in known)
        for name in ("max_length", "min_length")
    }
    config, unknown = model._prepare_generation_config(given, **rest)
    if unknown := {name: value for name, value in unknown.items() if value is not None and name not in _OUTPUTS}:
        raise UsageError(f"stream() takes no option {', '.join(sorted(unknown))}")
    _require_one_text(config)
    model._prepare_special_tokens(config, True, device=ids.device, batch_size=1)
    model._prepare_generated_length(
        generation_config=config,
        has_default_max_length=has_default["max_length"],
        has_default_min_length=has_default["min_length"],
        model_input_name="input_ids",
        inputs_tensor=ids,
        input_ids_length=ids.shape[1],
    )
    model._validate_generated_length(config, ids.shape[1], has_default["max_length"])
    return config


def _require_one_text(config: GenerationConfig) -> None:
    for name in ("num_beams", "num_return_sequences"):
        if (getattr(config, name) or 1) > 1:
            raise UsageError(f"{name}={getattr(config, name)}: a stream is one text; use generate()")
    for name in _OUTPUTS:
        if getattr(config, name):
            raise UsageError(f"{name}: a stream gives token ids only; use generate()")
    if config.guidance_scale not in (None, 1):
        raise UsageError("guidance_scale: guidance needs a second run of the model; use generate()")
    if config.token_healing:
        raise UsageError("token_healing: a stream begins with the prompt as it is; use generate()")
    if config.cache_implementation is not None:
        raise UsageError("cache_implementation has no meaning here: the swarm keeps the cache")
    mode = config.get_generation_mode()
    if mode not in ("greedy_search", "sample"):
        raise UsageError(f"{mode.value}: a stream chooses one token at a time; use generate()")


def _prompt(input_ids: Tensor | Sequence[int]) -> Tensor:
    """(1, S), on the CPU."""
    try:
        ids = torch.as_tensor(input_ids, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"input_ids of type {type(input_ids).__name__}: token ids are needed") from error
    if ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2 or len(ids) != 1 or not ids.shape[1]:
        raise UsageError(f"input_ids of shape {tuple(ids.shape)}: a stream is one text, (1, tokens) is needed")
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise UsageError(f"input_ids of dtype {ids.dtype}: token ids are needed")
    return ids.long()


def _valid(model: SwarmForCausalLM, ids: Tensor, config: GenerationConfig, mask: Tensor | None) -> Tensor:
    """(1, S) which tokens are real: as told, or as `generate` guesses from padding."""
    if mask is None:
        mask = model._prepare_attention_mask_for_generation(ids, config, {})
    valid: Tensor = torch.as_tensor(mask, device="cpu").bool().reshape(1, -1)
    if valid.shape != ids.shape or not bool(valid[0, -1]):
        raise UsageError("attention_mask: one number for each token is needed, and the last one must be real")
    return valid


def _num_top(asked: int | None) -> int | None:
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or not 0 <= asked <= MAX_TOP):
        raise UsageError(f"num_logprobs={asked}: give 0 to {MAX_TOP}")
    return asked


def _generator(seed: int | None) -> torch.Generator:
    if seed is None:
        # From torch's own generator, so that torch.manual_seed makes a program's streams repeatable.
        seed = int(torch.empty((), dtype=torch.int64).random_())
    return torch.Generator().manual_seed(seed)
