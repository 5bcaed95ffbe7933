"""A causal language model whose blocks are in the swarm; everything else is transformers' own.

`generate` is `GenerationMixin`'s, so all of its options work: this class only has a `forward`
that embeds, sends the hidden states through the session of a `RemoteCache`, and applies the head.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from swarm.blocks import ModelEnds
from swarm.client.batching import BatchedHead
from swarm.client.bridge import bridge
from swarm.client.cache import RemoteCache
from swarm.client.connection import Connection
from swarm.client.explain import Explanation, explain
from swarm.client.inference_session import InferenceSession, current_session
from swarm.client.inputs import check_positions, positions_after, refuse_hidden_outputs, valid_tokens
from swarm.client.opening import Model, Wanted
from swarm.client.remote_blocks import RemoteBlocks
from swarm.client.session import Session
from swarm.client.source import SessionSource, Ways
from swarm.client.streaming.decoder import Decoder
from swarm.client.streaming.generation import Generation
from swarm.client.streaming.mailbox import Mailbox
from swarm.client.streaming.options import Asked, read_options
from swarm.client.streaming.running import start_generation
from swarm.client.streaming.token_stream import TokenStream
from swarm.client.streaming.trail import Trail, Way
from swarm.errors import PromptTooLong, UnavailableError, UsageError
from swarm.types import Hop, Span, View


class SwarmForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model with remote blocks; made by `AutoModelForCausalLM.from_pretrained`.

    Attributes:
        blocks: All remote blocks; `model.blocks[i:j](hidden)` runs some of them.
        fingerprint: Hex digest of the checkpoint: only servers of this very one are used.
        context_length: Tokens that it can hold.
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
        self.name_or_path, self.fingerprint = model.name, model.fingerprint
        self.context_length: int = ends.config.context_length
        self._latest: Session | None = None
        # Not a method: whoever embeds for a session must not keep this model alive.
        self._embed = lambda ids, positions: ends.place(ends.embed(ids), positions)
        self._head = BatchedHead(ends.logits, ends.config.hidden_size)
        self._decoder = Decoder(ends, self._head, chunk_tokens=connection.config.chunk_tokens)
        weakref.finalize(self, self._decoder.stop)
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
        if max_length is not None and not 0 < max_length <= self.context_length:
            raise PromptTooLong(f"max_length={max_length}; the model's context is {self.context_length}")
        bound, connection, model = bridge(), self._connection, self._model
        span = span or self.blocks.span
        whole = span == self.blocks.span

        def open_session(wanted: Sequence[Wanted]) -> Session:
            session = bound.run(connection.open_session(model, span, wanted))
            if whole:
                self._opened(session)
            return session

        ways = Ways(
            open_session=open_session,
            run_step=lambda session, rows, hidden, hashes: bound.run(connection.step(session, rows, hidden, hashes)),
            close=lambda session: bound.post(lambda: connection.forget(session)),
            embed=self._embed,
            prefixes=connection.prefixes,
            busy=connection.config.timeouts.busy,
        )
        return RemoteCache(SessionSource(ways), max_length=max_length or self.context_length)

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

    def view(self) -> View:
        """Return the servers of this very checkpoint, as seen lately; raises as `Connection.view`."""
        return bridge().run(self._connection.view(self._model))

    def explain(self) -> Explanation:
        """Return where the time of the newest session's decode steps went, hop by hop, and what would be faster."""
        return self._explanation(Way(self.route()) if self._latest is None else Way.of(self._latest))

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
        session = session or current_session()
        ids = kwargs.get("input_ids") if inputs is None else inputs
        if session is not None and session.belongs_to(self) and "past_key_values" not in kwargs:
            if ids is None or ids.ndim != 2:
                raise UsageError("a session continues from token ids of shape (batch, tokens): pass them to generate()")
            mask = kwargs.get("attention_mask")
            valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to("cpu", torch.bool)
            session.cache.rewind(ids.to("cpu"), valid)
            kwargs["past_key_values"] = session.cache
        return super().generate(inputs, *args, **kwargs)

    def stream(self, input_ids: Tensor | Sequence[int], **options: Any) -> TokenStream:
        """Generate one text and give each token as it is chosen: `async for token_id in model.stream(ids)`.

        Works on any event loop; any number of streams may run at once, and share the head's work.

        Args:
            input_ids: (S,) or (1, S), the prompt; the stream gives what follows, the end token included.
            options: Those of `generate` that concern one text, with the same tokens as result; and `seed`, whose
                stream equals what `torch.manual_seed(seed)` before `generate` makes. Without it one is drawn.
                With `num_logprobs` (0 to 20) the stream's `likelihood` tells how likely each token was, and
                so many of the likeliest.

        Raises:
            UsageError: An option is unknown or wrong, or asks for more than one text.
            PromptTooLong, TokenOutOfRange: As `generate`.

        Reading it raises `SwarmError` as `generate` does; a busy hop is waited for, see `Timeouts.busy`.
        """
        asked = read_options(self, input_ids, options, context=self.context_length)
        self._ends.embed(torch.tensor([min(asked.tokens), max(asked.tokens)]))  # raises what is out of range
        trail = Trail(self._opened)
        end_tokens = asked.text.choice.end_tokens
        return TokenStream(
            lambda mailbox: self._start(asked, mailbox, trail), trail, self._explanation, end_tokens=end_tokens
        )

    def _start(self, asked: Asked, mailbox: Mailbox, trail: Trail) -> Callable[[], None]:
        return start_generation(
            Generation(asked.text, asked.tokens, mailbox, self._connection.prefixes, self._embed),
            self._decoder,
            self._connection,
            self._model,
            self.blocks.span,
            trail,
        )

    def _explanation(self, way: Way) -> Explanation:
        legs, advice = list[float](), ""
        if way.hops:
            with suppress(UnavailableError):  # what was measured is known without the directory as well
                legs, advice = bridge().run(self._connection.routes.advise(self._model, way.hops))
        return explain(way.hops, way.steps, legs=legs, num_failovers=way.num_failovers, advice=advice)

    def _opened(self, session: Session) -> None:
        self._latest = session

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
        refuse_hidden_outputs(kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise UsageError("give either input_ids or inputs_embeds")
        embeds = self._ends.embed(cast(Tensor, input_ids)) if inputs_embeds is None else inputs_embeds
        cache = self.new_cache() if past_key_values is None else past_key_values
        if not isinstance(cache, RemoteCache):
            raise UsageError("past_key_values must be a cache of this model (model.new_cache()), not a local one")
        valid = valid_tokens(attention_mask, cache, embeds)
        positions = positions_after(cache, valid)
        check_positions(position_ids, positions, valid)
        embeds = self._ends.place(embeds, positions)
        keep = logits_to_keep if isinstance(logits_to_keep, int) and logits_to_keep else embeds.shape[1]
        try:
            hidden = cache.advance(input_ids, embeds, valid, keep=min(keep, embeds.shape[1]))
        finally:
            if past_key_values is None:
                cache.reset()
        if isinstance(logits_to_keep, Tensor):
            hidden = hidden[:, logits_to_keep]
        logits = self._head(hidden)
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
        if max_cache_length > (context := self.context_length):
            raise PromptTooLong(
                f"prompt and new tokens together are {max_cache_length + 1}, the model's context is {context}: "
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
