"""The two ends of a model that we have no family for: what transformers does before and after the layers."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from swarm.blocks.ends import ModelEnds
from swarm.blocks.files.checkpoint import Checkpoint
from swarm.blocks.generic.skeleton import Skeleton
from swarm.errors import PromptTooLong


class GenericEnds(ModelEnds):
    """Embeddings, norms and head as transformers runs them.

    What happens between the embedding and the first layer (learned positions, a norm) happens in `place`.
    """

    def __init__(self, skeleton: Skeleton, checkpoint: Checkpoint) -> None:
        self.config = checkpoint.config
        self.dtype = skeleton.dtype
        self._skeleton = skeleton
        self._embedding = skeleton.model.get_input_embeddings()
        self._count = len(skeleton.layers)
        self._lock = threading.Lock()  # several threads may generate with one model, and a pass has one course

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, dtype: torch.dtype, own_bits: bool = False) -> GenericEnds:
        """Read the ends; no block's bytes are read. The head is plain, whatever `own_bits` says.

        Raises:
            CheckpointCorrupt: A tensor is missing, truncated or of the wrong shape.
        """
        skeleton = Skeleton(checkpoint.config.settings, dtype, source=checkpoint.path)
        tensors: dict[str, Tensor] = {}
        with torch.inference_mode(False), torch.no_grad():
            for names in skeleton.end_names:
                tensors |= dict.fromkeys(names, checkpoint.read(names[0], dtype=dtype))
            skeleton.fill_ends(tensors)
        return cls(skeleton, checkpoint)

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        # A tied head is another parameter of the same memory.
        filled = {part.data_ptr(): part.nbytes for part in self._skeleton.model.parameters() if not part.is_meta}
        return sum(filled.values())

    def embed(self, ids: Tensor) -> Tensor:
        """Look tokens up: (...,) integers to (..., D); D as the embedding has it.

        Raises:
            TokenOutOfRange: An id outside the vocabulary.
        """
        self._require_known(ids)
        with torch.no_grad():
            embeds: Tensor = self._embedding(ids.to(torch.int64))
            return embeds.to(self.dtype)

    def place(self, embeds: Tensor, positions: Tensor) -> Tensor:
        """Make of embeddings (..., D) and positions (...,) what the first layer takes, (..., D).

        Raises:
            PromptTooLong: A position beyond the model's context.
        """
        if positions.numel() and int(positions.max()) >= self.config.context_length:
            raise PromptTooLong(
                f"position {int(positions.max())} is beyond the model's {self.config.context_length} tokens of context"
            )
        course = self._skeleton.course
        flat = embeds.to(self.dtype).reshape(1, -1, embeds.shape[-1])
        with self._lock, torch.no_grad():
            course.first = course.last = 0
            self._skeleton.run(inputs_embeds=flat, position_ids=positions.reshape(1, -1), use_cache=False)
            result, course.result = course.result, None
        assert result is not None
        return result.view(*embeds.shape[:-1], result.shape[-1])

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply all that follows the layers: (..., D) to (..., V), in `dtype`."""
        course = self._skeleton.course
        flat = hidden.to(self.dtype).reshape(1, -1, hidden.shape[-1])
        width = self._embedding.embedding_dim
        with self._lock, torch.no_grad():
            course.first = course.last = self._count
            course.leaving = flat
            logits: Tensor = self._skeleton.model(
                inputs_embeds=torch.zeros(1, flat.shape[1], width, dtype=self.dtype),
                position_ids=torch.zeros(1, flat.shape[1], dtype=torch.int64),
                use_cache=False,
            ).logits
            course.leaving = None
        return logits.view(*hidden.shape[:-1], logits.shape[-1])
