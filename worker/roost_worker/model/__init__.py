"""The model on its device: weights, paged KV, attention, sampling, tensor parallelism. Knows no sessions, no text."""
