"""Has the oracle judge committed logs: each token must be its first choice or a near tie."""

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from roost import LoggedStep, Sampling, Tool, ToolChoice, ToolChoiceMode
from roost_operator.local.processes import STACK_VARIABLE, log_end
from roost_worker.grammar import build_tool_call
from roost_worker.render.formats import CallWrapper
from roost_worker.render.renderer import Renderer

_SAMPLING = (
    "seed", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "max_tokens", "min_tokens",
)  # fmt: skip


class VerificationError(RuntimeError):
    """The oracle could not be run. The text has the end of its log."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The oracle's verdict on committed logs."""

    positions: int
    near_ties: int
    wrong: int
    largest_gap: float
    token_exact: bool
    faults: tuple[str, ...] = ()
    """Outputs that break their grammar."""


@dataclass(frozen=True, slots=True)
class CommittedLog:
    """A session's committed steps, and its tools, whose schemas constrained its calls."""

    steps: Sequence[LoggedStep]
    tools: Sequence[Tool]


class Judge:
    """The oracle over the fp32 model in `model_dir`, in its own process, which runs while this is entered."""

    def __init__(self, model_dir: Path, log: Path, threads: int = 1) -> None:
        self._threads = threads
        self._model_dir = model_dir
        self._log = log
        self._renderer = Renderer.from_dir(model_dir)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "roost_operator.demo.scoring", "--model", str(self._model_dir)),
                *("--threads", str(self._threads)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=_environment(),
            )
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def verify(self, logs: Iterable[CommittedLog]) -> Verification:
        """Judge all `logs` together. One call at a time. Raises VerificationError."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        document = [[_step(step, log.tools, self._renderer) for step in log.steps] for log in logs]
        try:
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            await self._process.stdin.drain()
        except ConnectionError:
            raise VerificationError(self._last_words()) from None
        answer = await self._process.stdout.readline()
        if not answer:
            raise VerificationError(self._last_words())
        verdict = json.loads(answer)
        return Verification(**{**verdict, "faults": tuple(verdict["faults"])})

    def _last_words(self) -> str:
        return f"the oracle ended; the end of {self._log}:\n{log_end(self._log)}"


def _environment() -> dict[str, str]:
    """This process' environment without the mark of a running stack, since the oracle outlives it."""
    kept = {name: value for name, value in os.environ.items() if name != STACK_VARIABLE}
    return {**kept, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}


def _step(step: LoggedStep, tools: Sequence[Tool], renderer: Renderer) -> Mapping[str, Any]:
    return {
        "prompt_ids": list(step.prompt_token_ids),
        "output_ids": list(step.output_token_ids),
        "sampling": _sampling(step.sampling, renderer),
        "grammar": _grammar(step, tools, renderer.call_wrapper),
    }


def _grammar(step: LoggedStep, tools: Sequence[Tool], wrapper: CallWrapper) -> str | None:
    if not isinstance(step.format, ToolChoice) or step.format.mode is not ToolChoiceMode.REQUIRED:
        return None
    named = [_NamedSchema(tool.name, json.dumps(tool.parameters)) for tool in tools]
    return build_tool_call(named, step.format.name, wrapper)


@dataclass(frozen=True, slots=True)
class _NamedSchema:
    name: str
    parameters_json: str


def _sampling(sampling: Sampling, renderer: Renderer) -> dict[str, Any]:
    """A mapping for `roost_worker.engine.messages.SamplingParams`; values that are not set take the model's defaults,
    or else those of SamplingParams."""
    given = {name: value for name in _SAMPLING if (value := getattr(sampling, name)) is not None}
    stop_token_ids = [*renderer.eos_token_ids, *sampling.stop_token_ids]
    return {**renderer.sampling_defaults, **given, "stop_token_ids": stop_token_ids}
