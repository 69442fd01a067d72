"""Text to token ids and back: chat templates, step prompts, detokenisation, tool calls."""
