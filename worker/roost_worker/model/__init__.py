"""The model on its device: weights, paged KV, attention, sampling, tensor parallelism. No sessions, no text."""
