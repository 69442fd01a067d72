"""From a source to the model store: fetch, convert once, keep. Only the converter process imports transformers."""
