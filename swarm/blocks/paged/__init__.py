"""Keys and values in pages, and the attention of ragged batches over them."""
