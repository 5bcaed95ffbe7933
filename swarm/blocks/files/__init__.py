"""Checkpoints: safetensors shards and GGUF files, from what people call a model to a block's tensors."""
