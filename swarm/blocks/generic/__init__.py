"""Models that we have no family for: transformers' own layers, over our pages.

Nothing is imported here, as everything within loads transformers, which takes a second: `skeleton` is the model without
weights, `span` what a server runs of it, `ends` what a client runs.
"""
