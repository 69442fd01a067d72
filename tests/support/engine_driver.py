"""Drives an Engine over the paged fake runner and remembers what each request was answered."""

from array import array
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from paged_fake_runner import PagedFakeRunner, reference
from roost_worker.config import EngineConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import (
    EngineMessage,
    Evicted,
    Outputs,
    Pause,
    RequestOutput,
    SamplingParams,
    StopReason,
    Submit,
)
from roost_worker.engine.retention import RetentionPolicy


class InlineExecutor(Executor):
    """Runs work at once, so that the engine is deterministic."""

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]  # the base class is typed by ParamSpec
        future: Future[str] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@dataclass
class Answer:
    """All outputs of a request."""

    request: Submit
    token_ids: list[int] = field(default_factory=list)
    outputs: list[RequestOutput] = field(default_factory=list)

    @property
    def stop(self) -> StopReason | None:
        return self.outputs[-1].stop if self.outputs else None

    @property
    def cached_tokens(self) -> int | None:
        return self.outputs[0].cached_tokens

    @property
    def error(self) -> str:
        return self.outputs[-1].error


class EngineDriver:
    """An engine with a tiny pool, a clock that stands still, and checks after each operation."""

    def __init__(
        self,
        *,
        blocks: int = 16,
        block_tokens: int = 4,
        context: int = 64,
        running: int = 4,
        batch: int = 16,
        policy: RetentionPolicy | None = None,
        host_slots: int = 0,
        step_goal_seconds: float = 0.0,
        drafts: int = 0,
        ahead: bool = False,
    ) -> None:
        """`blocks`: blocks that can be used, the null block not counted; `drafts`: most tokens that are guessed;
        `ahead`: the runner can begin steps."""
        self.now = 0.0
        self.runner = PagedFakeRunner(blocks + 1, block_tokens, context, batch, host_slots, ahead=ahead)
        config = EngineConfig(running, batch, step_goal_seconds, max_draft_tokens=drafts)
        self.engine = Engine(
            self.runner,
            config,
            context,
            policy=policy,
            clock=lambda: self.now,
            grammar_pool=InlineExecutor(),
            wake=lambda: None,
        )
        self.answers: dict[str, Answer] = {}
        self.resident: dict[str, int] = {}
        self.warm: dict[str, int] = {}
        self.dropped: list[tuple[str, int]] = []
        self.evicted: list[Evicted] = []

    def submit(
        self,
        name: str,
        prompt: Sequence[int],
        *,
        output: Sequence[int] = (),
        session: str | None = None,
        tenant: bytes = b"tenant",
        grammar: str | None = None,
        priority: int = 0,
        role: str = "",
        pause: Pause | None = None,
        **sampling: object,
    ) -> Answer:
        """Submits `prompt`, with `output` replayed."""
        params = SamplingParams(**{"max_tokens": 4, "prompt_lookup": True, **sampling})  # type: ignore[arg-type]  # checked by the dataclass
        ids = array("I", [*prompt, *output])
        request = Submit(name, ids, len(prompt), params, tenant, session, grammar, priority, role, pause)
        self.answers[name] = answer = Answer(request)
        self.send(request)
        return answer

    def send(self, message: EngineMessage) -> None:
        self.engine.handle(message)
        self.engine.check_integrity()

    def iterate(self) -> Outputs | None:
        """One iteration; its outputs are filed, its reports applied, the memory checked."""
        outputs = self.engine.iterate()
        self.engine.check_integrity()
        self._check_memory()
        if outputs is not None:
            self._file(outputs)
        return outputs

    def run(self, steps: int = 2000) -> None:
        """Steps until there is nothing to do."""
        for _ in range(steps):
            if self.iterate() is None:
                return
        raise AssertionError(f"the engine is still busy after {steps} steps: {self.engine.stats}")

    @property
    def steps_ahead(self) -> int:
        """How many plans were begun before the tokens of the one before were known."""
        return sum(chunk.awaits_draw for plan in self.runner.plans for chunk in plan.chunks[:1])

    def expected(self, request: Submit) -> list[int]:
        """What the request generates if it is let: the reference's output after the replayed part."""
        limit = self.engine.info.context_tokens
        whole = reference(request.token_ids, request.prompt_len, request.sampling, limit)
        return whole[len(request.token_ids) - request.prompt_len :]

    def _file(self, outputs: Outputs) -> None:
        for output in outputs.outputs:
            answer = self.answers[output.request_id]
            assert answer.stop is None, "an output after the last one"
            assert (output.cached_tokens is not None) == (not answer.outputs), "cached_tokens comes once, first"
            answer.token_ids.extend(output.token_ids)
            answer.outputs.append(output)
        for session, tokens in outputs.dropped:
            self.resident.pop(session, None)
            self.dropped.append((session, tokens))
        self.resident.update(outputs.parked)
        self.warm.update(outputs.warm)
        self.evicted += outputs.evicted
        stats = outputs.stats
        assert stats.blocks_free + stats.blocks_cached + stats.blocks_in_use == self.runner.info.num_blocks - 1

    def _check_memory(self) -> None:
        """KV that a sequence claims to have is the KV of its ids."""
        for sequence in self.engine._scheduler.running:
            self._assert_memory(sequence.blocks, sequence.ids[: sequence.computed])
        for parked in self.engine._cache.parked:
            self._assert_memory(parked.blocks, parked.ids)

    def _assert_memory(self, blocks: "array[int]", ids: "array[int]") -> None:
        stored = [token for block in blocks for token in self.runner.memory[block]]
        assert stored[: len(ids)] == list(ids), "KV in memory is not that of the ids"
