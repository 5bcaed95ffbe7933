"""A causal language model whose blocks are in the swarm; everything else is transformers' own.

`generate` is `GenerationMixin`'s, so all of its options work: this class only has a `forward`
that embeds, sends the hidden states through the session of a `RemoteCache`, and applies the head.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from swarm.blocks import ModelEnds
from swarm.client.bridge import bridge
from swarm.client.cache import RemoteCache, SessionSource
from swarm.client.connection import Connection
from swarm.client.explain import Explanation, explain
from swarm.client.remote_blocks import RemoteBlocks
from swarm.client.session import Model, Session
from swarm.errors import PromptTooLong, UsageError
from swarm.types import Hop, Span

_current: ContextVar[InferenceSession | None] = ContextVar("swarm_inference_session", default=None)


class InferenceSession:
    """Keeps the cache across `generate()` calls; use as a context manager.

    Within the block, `model.generate(ids)` takes the whole conversation each time and computes
    only what the session does not hold yet: it rolls back to the longest common beginning.
    """

    def __init__(self, model: SwarmForCausalLM, max_length: int | None) -> None:
        self._model = model
        self.cache = model.new_cache(max_length=max_length)

    @property
    def position(self) -> int:
        """Tokens (padding included) that the session holds."""
        return self.cache.get_seq_length()

    def __enter__(self) -> InferenceSession:
        self._token = _current.set(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _current.reset(self._token)
        self.cache.reset()

    def belongs_to(self, model: object) -> bool:
        """Whether the session was made by `model`."""
        return self._model is model


class SwarmForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model with remote blocks; made by `AutoModelForCausalLM.from_pretrained`.

    Attributes:
        blocks: All remote blocks; `model.blocks[i:j](hidden)` runs some of them.
    """

    config_class = PretrainedConfig
    main_input_name = "input_ids"
    _supports_sdpa = True  # transformers refuses a model class that supports no attention at all

    def __init__(
        self,
        config: PretrainedConfig,
        *,
        ends: ModelEnds,
        model: Model,
        connection: Connection,
        generation_config: GenerationConfig | None = None,
    ) -> None:
        super().__init__(config)
        self._ends = ends
        self._model = model
        self._connection = connection
        self._context = ends.config.context_length
        self._latest: Session | None = None
        # PreTrainedModel reads device and dtype off a parameter; ours are packed, and not parameters.
        self._anchor = nn.Parameter(torch.empty(0, dtype=ends.dtype), requires_grad=False)
        if generation_config is not None:
            self.generation_config = generation_config
        self.blocks = RemoteBlocks(
            Span(0, ends.config.num_blocks), ends.config.hidden_size, lambda span: self.new_cache(span=span)
        )
        self.eval()

    def new_cache(self, *, max_length: int | None = None, span: Span | None = None) -> RemoteCache:
        """Return an empty cache for `forward` or `generate(past_key_values=...)`.

        Args:
            max_length: Tokens that a row may hold, at most the model's context.
            span: The blocks that the cache's session runs; all by default.
        """
        if max_length is not None and not 0 < max_length <= self._context:
            raise PromptTooLong(f"max_length={max_length}; the model's context is {self._context}")
        bound, connection, model = bridge(), self._connection, self._model
        span = span or self.blocks.span
        whole = span == self.blocks.span

        def open_session() -> Session:
            session = bound.run(connection.open_session(model, span))
            if whole:
                self._latest = session
            return session

        source = SessionSource(
            open_session,
            lambda session, rows, hidden: bound.run(session.step(rows, hidden)),
            lambda session: bound.post(lambda: connection.forget(session)),
        )
        return RemoteCache(source, max_length=max_length or self._context)

    def inference_session(self, max_length: int | None = None) -> InferenceSession:
        """Return a session that keeps its cache across `generate()` calls of its `with` block.

        Args:
            max_length: Tokens that it may hold at most; the model's context by default.
        """
        return InferenceSession(self, max_length)

    def route(self) -> tuple[Hop, ...]:
        """Return the hops of the newest session, or those that one would take now.

        Raises:
            BlocksMissing: No session yet, and some blocks have no server.
        """
        if self._latest is not None:
            return self._latest.hops
        return bridge().run(self._connection.plan(self._model, self.blocks.span))

    def explain(self) -> Explanation:
        """Return where the time of the newest session's decode steps went, hop by hop."""
        if self._latest is None:
            return explain(self.route(), ())
        return explain(self._latest.hops, tuple(self._latest.timings))

    @torch.no_grad()
    def generate(
        self, inputs: Tensor | None = None, *args: Any, session: InferenceSession | None = None, **kwargs: Any
    ) -> Any:
        """Generate as transformers does; see `GenerationMixin.generate` for every option.

        Within `inference_session()`, or with `session=`, the prompt is the whole conversation and
        only what the session does not hold yet is computed.

        Raises:
            PromptTooLong: Prompt and new tokens are more than the model's context.
            TokenOutOfRange: A token id outside the vocabulary.
            BlocksMissing: Nobody serves some of the blocks.
        """
        session = session or _current.get()
        ids = kwargs.get("input_ids") if inputs is None else inputs
        if session is not None and session.belongs_to(self) and "past_key_values" not in kwargs:
            if ids is None or ids.ndim != 2:
                raise UsageError("a session continues from token ids of shape (batch, tokens): pass them to generate()")
            mask = kwargs.get("attention_mask")
            valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to("cpu", torch.bool)
            session.cache.rewind(ids.to("cpu"), valid)
            kwargs["past_key_values"] = session.cache
        return super().generate(inputs, *args, **kwargs)

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: RemoteCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the whole model; arguments as of transformers' causal models.

        Args:
            input_ids: (B, T) the tokens that the cache does not hold yet.
            attention_mask: (B, S), 0 at padding, over held and new tokens.
            position_ids: Positions follow from the mask; others are refused.
            past_key_values: Of `new_cache`; None runs the tokens without keeping anything.
            inputs_embeds: (B, T, D) instead of ids.
            labels: (B, T) for a loss, -100 ignored.
            logits_to_keep: How many last positions to compute logits for; 0 is all.

        Returns:
            With `logits` (B, kept, V) in the model's dtype; padded positions hold garbage, as ever.

        Raises:
            UsageError: An option that remote blocks cannot serve.
            PromptTooLong, TokenOutOfRange, BlocksMissing: See `generate`.
        """
        _refuse(kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise UsageError("give either input_ids or inputs_embeds")
        embeds = self._ends.embed(cast(Tensor, input_ids)) if inputs_embeds is None else inputs_embeds
        cache = self.new_cache() if past_key_values is None else past_key_values
        if not isinstance(cache, RemoteCache):
            raise UsageError("past_key_values must be a cache of this model (model.new_cache()), not a local one")
        valid = _valid(attention_mask, cache, embeds)
        positions = _positions(cache, valid)
        _check_positions(position_ids, positions, valid)
        embeds = self._ends.place(embeds, positions)
        keep = logits_to_keep if isinstance(logits_to_keep, int) and logits_to_keep else embeds.shape[1]
        try:
            hidden = cache.advance(input_ids, embeds, valid, keep=min(keep, embeds.shape[1]))
        finally:
            if past_key_values is None:
                cache.reset()
        if isinstance(logits_to_keep, Tensor):
            hidden = hidden[:, logits_to_keep]
        logits = self._ends.logits(hidden)
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=past_key_values if use_cache is not False else None
        )

    def get_input_embeddings(self) -> nn.Module:
        """Return a module that embeds token ids (B, T) as (B, T, D)."""
        return _Embedding(self._ends)

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        # transformers would make a local cache here. `max_cache_length` is one short of prompt and new tokens.
        if max_cache_length > self._context:
            raise PromptTooLong(
                f"prompt and new tokens together are {max_cache_length + 1}, the model's context is {self._context}: "
                "shorten the prompt or lower max_new_tokens"
            )
        if generation_config.cache_implementation is not None:
            raise UsageError("cache_implementation has no meaning here: the swarm keeps the cache")
        cache = model_kwargs.get("past_key_values")
        if cache is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = self.new_cache()
        elif cache is not None:
            cache._is_user_defined = True  # as transformers marks a cache that outlives the call


class _Embedding(nn.Module):
    def __init__(self, ends: ModelEnds) -> None:
        super().__init__()
        self._ends = ends

    def forward(self, ids: Tensor) -> Tensor:
        return self._ends.embed(ids)


def _refuse(options: dict[str, Any]) -> None:
    for name in ("output_attentions", "output_hidden_states"):
        if options.get(name):
            raise UsageError(f"{name}: not available from remote blocks; model.blocks[i:j](hidden) gives hidden states")


def _valid(mask: Tensor | None, cache: RemoteCache, embeds: Tensor) -> Tensor:
    """(B, T) which of the new tokens are real."""
    batch, tokens = embeds.shape[:2]
    if mask is None:
        return torch.ones(batch, tokens, dtype=torch.bool)
    held = cache.get_seq_length()
    if mask.ndim != 2 or mask.shape != (batch, held + tokens):
        raise UsageError(f"attention_mask of shape {tuple(mask.shape)}: {(batch, held + tokens)} is needed")
    real = mask.to("cpu", torch.bool)
    if held and not torch.equal(real[:, :held], cache.valid):
        raise UsageError("attention_mask differs from the one that the held tokens were computed with")
    return real[:, held:]


def _positions(cache: RemoteCache, valid: Tensor) -> Tensor:
    """(B, T) the new tokens' positions; those of padding mean nothing."""
    held = cache.valid.sum(1, keepdim=True) if cache.get_seq_length() else torch.zeros(len(valid), 1, dtype=torch.long)
    return (held + valid.long().cumsum(1) - 1).clamp(min=0)


def _check_positions(position_ids: Tensor | None, expected: Tensor, valid: Tensor) -> None:
    if position_ids is None:
        return
    given = position_ids.to("cpu").expand(len(valid), -1)[:, -valid.shape[1] :]
    if given.shape != expected.shape or not torch.equal(given[valid], expected[valid]):
        raise UsageError("position_ids that skip or repeat positions are not served; leave them out")
