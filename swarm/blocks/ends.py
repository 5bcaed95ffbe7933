"""The two ends of a model, which the client runs: embedding before the blocks, norm and head after them."""

from __future__ import annotations

import torch
from torch import Tensor

from swarm.blocks.config import ModelConfig
from swarm.blocks.decoder import Norm
from swarm.blocks.families.family import EMBEDDING, FINAL_NORM, HEAD
from swarm.blocks.files.checkpoint import Checkpoint
from swarm.blocks.files.tensor_file import StoredTensor
from swarm.blocks.linear import Linear, linear_factory
from swarm.blocks.native import kernel_name
from swarm.blocks.native.binding import TORCH
from swarm.errors import TokenOutOfRange


class ModelEnds:
    """Embedding, final norm and packed head.

    The embedding stays in memory as the file stores it, and only the rows asked for are decoded: a quantised
    or 16-bit table costs its stored bytes whatever the dtype, and a tied head is not held twice in full.

    Attributes:
        config: The model's configuration.
        dtype: Of what `embed` returns and `logits` computes in.
    """

    def __init__(
        self,
        *,
        config: ModelConfig,
        dtype: torch.dtype,
        stored: StoredTensor,
        table: Tensor,
        norm: Norm,
        head: Linear,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self._stored = stored
        self._table = table
        self._norm = norm
        self._head = head

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, dtype: torch.dtype, own_bits: bool = False) -> ModelEnds:
        """Read the ends; no block's bytes are read.

        Args:
            checkpoint: Where they are.
            dtype: Of what `embed` returns and `logits` computes in.
            own_bits: Keep the head in the file's own 4 or 8 bits, if it has such and they run fast here.

        Raises:
            CheckpointCorrupt: A tensor is missing, truncated or of the wrong shape.
        """
        if checkpoint.family.assemble is None:
            from swarm.blocks.generic.ends import GenericEnds  # loads transformers, which takes a second

            return GenericEnds.load(checkpoint, dtype=dtype)
        config = checkpoint.config
        stored = checkpoint.find(EMBEDDING)
        with torch.no_grad():
            norm = checkpoint.read(FINAL_NORM, dtype=torch.float32)
            name = EMBEDDING if config.tie_embeddings else HEAD
            # Without native kernels the codes would be decoded for each token.
            is_coded = own_bits and dtype == torch.bfloat16 and kernel_name() != TORCH
            head = checkpoint.read_own(name, dtype=dtype) if is_coded else checkpoint.read(name, dtype=dtype)
            return cls(
                config=config,
                dtype=dtype,
                stored=stored,
                table=stored.raw().view(stored.num_rows, stored.row_bytes),
                norm=Norm(norm + checkpoint.family.norm_shift, config.rms_eps, dtype),
                head=linear_factory(dtype)(head, None),
            )

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        return self._table.nbytes + self._norm.weight_bytes + self._head.weight_bytes

    def embed(self, ids: Tensor) -> Tensor:
        """Look tokens up: (...,) integers to (..., D).

        Raises:
            TokenOutOfRange: An id outside the vocabulary.
            CheckpointCorrupt: The file holds NaN or infinity for one of these tokens.
        """
        self._require_known(ids)
        with torch.no_grad():
            rows = self._table.index_select(0, ids.reshape(-1).to(torch.int64))  # (T, bytes)
            hidden = self._stored.decode(rows.view(-1)) if ids.numel() else torch.empty(0, self.config.hidden_size)
            self._stored.require_finite(hidden)  # only rows that are used are ever decoded
            hidden = hidden.to(self.dtype).view(*ids.shape, self.config.hidden_size)
            if self.config.embedding_scale:
                hidden = hidden * torch.tensor(self.config.embedding_scale, dtype=self.dtype)
            return hidden

    def place(self, embeds: Tensor, positions: Tensor) -> Tensor:
        """Tell embeddings (..., D) their positions (...,); here the blocks' ropes do that, so nothing changes."""
        return embeds

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply final norm and head: (..., D) to (..., V), in `dtype`."""
        with torch.no_grad():
            flat = hidden.to(self.dtype).reshape(-1, self.config.hidden_size)
            logits = self._head(self._norm(flat)).view(*hidden.shape[:-1], self.config.vocab_size)
            cap = self.config.logits_softcap
            return logits.div_(cap).tanh_().mul_(cap) if cap else logits

    def _require_known(self, ids: Tensor) -> None:
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.vocab_size:
            raise TokenOutOfRange(
                f"token ids {int(ids.min())} to {int(ids.max())}; the vocabulary is 0 to {self.config.vocab_size - 1}: "
                "use this model's tokenizer"
            )
