"""Prepares models: fetch a source, convert it once, keep it. Only the converter process imports transformers."""
