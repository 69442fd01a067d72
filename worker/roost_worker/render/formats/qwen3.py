"""Qwen3: ChatML with thinking, whose marks and those of calls are tokens of the vocabulary.

Qwen3's own template removes the thinking of earlier turns; here a pool's `thinking: drop` does.
"""

from dataclasses import replace

from roost_worker.render.formats.chatml import CHATML

QWEN3 = replace(
    CHATML,
    name="qwen3",
    signs=("<think>", "</think>", "<tool_call>", "</tool_call>"),
    families=("Qwen3", "Qwen3 2507 (Instruct, Thinking)"),
)
