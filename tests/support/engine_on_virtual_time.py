"""The real engine (scheduler, cache, retention) on a virtual clock, with a runner whose batches take what costs say.

Sessions run on it in a closed loop, as `roost_operator.calibration.replay` runs them on an engine with a model.
"""

from array import array
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from random import Random

from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.workload import Session, Turn
from roost_operator.calibration.comparison import Figures, measured_figures
from roost_worker.config import EngineConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import Evict, Hold, Outputs, RequestOutput, SamplingParams, Submit
from roost_worker.engine.plan import BatchPlan, BatchResult, Chunk, NewSlot, RunnerInfo, Sampled
from roost_worker.engine.retention import RetentionPolicy

VOCABULARY = 1000


class CostedRunner:
    """Implements Runner. `now` goes on by the costs of each batch."""

    def __init__(
        self, costs: WorkerCosts, num_blocks: int, block_tokens: int, context_tokens: int, host_slots: int
    ) -> None:
        self.info = RunnerInfo(num_blocks, block_tokens, 1, VOCABULARY, context_tokens, (0,), host_slots=host_slots)
        self.now = 0.0
        self._costs = costs
        self._slots: dict[int, NewSlot] = {}
        self._begun: set[int] = set()

    def check_grammar(self, grammar: str) -> str:
        return ""

    def begin(self, plan: BatchPlan) -> None:
        return None

    def run(self, plan: BatchPlan) -> BatchResult:
        self._begun -= {new.slot for new in plan.new_slots}
        self._slots |= {new.slot: new for new in plan.new_slots}
        decodes = [chunk for chunk in plan.chunks if self._decodes(chunk)]
        seconds = 0.0
        if plan.chunks:
            seconds = self._costs.batch_seconds(len(decodes), sum(chunk.start + 1 for chunk in decodes))
        seconds += sum(self._prefill_seconds(chunk) for chunk in plan.chunks if not self._decodes(chunk))
        copying = len(plan.copies) * self.info.block_tokens * self._costs.copy_token_seconds
        self.now += seconds + copying
        sampled = tuple(Sampled(chunk.slot, 1) for chunk in plan.chunks if chunk.sample)
        return BatchResult(sampled, seconds, tuple(copy.restore for copy in plan.copies if copy.restore), copying)

    def close(self) -> None:
        pass

    def _decodes(self, chunk: Chunk) -> bool:
        return chunk.start >= len(self._slots[chunk.slot].context)

    def _prefill_seconds(self, chunk: Chunk) -> float:
        seconds = self._costs.prefill_seconds(len(chunk.token_ids), chunk.start)
        if chunk.slot in self._begun:
            seconds -= self._costs.prompt_seconds
        self._begun.add(chunk.slot)
        return seconds


class EngineOnVirtualTime:
    """Call `run` once."""

    def __init__(
        self,
        costs: WorkerCosts,
        kv_tokens: int,
        block_tokens: int,
        context: int,
        max_running: int,
        policy: RetentionPolicy | None = None,
        host_tokens: int = 0,
    ) -> None:
        blocks, slots = kv_tokens // block_tokens + 1, host_tokens // block_tokens
        self._runner = CostedRunner(costs, blocks, block_tokens, context, slots)
        config = EngineConfig(max_running, costs.chunk_tokens, step_goal_seconds=0.0)
        self._engine = Engine(self._runner, config, context, policy=policy, clock=lambda: self._runner.now)
        self._random = Random("virtual")
        self._arrivals: list[tuple[float, int, str]] = []
        self._count = count()
        self._turns: dict[str, Iterator[Turn]] = {}
        self._turn: dict[str, Turn] = {}
        self._contexts: dict[str, array[int]] = {}
        self._submitted: dict[str, float] = {}
        self._ttfts: list[float] = []
        self._first: dict[str, float] = {}
        self._prompt_tokens = self._cached_tokens = 0

    def run(self, sessions: Iterator[Session], population: int, steps: int) -> Figures:
        """Run `population` sessions at any time until `steps` steps have ended."""
        self._sessions = sessions
        for _ in range(population):
            self._begin(next(sessions))
        while len(self._ttfts) < steps:
            while self._arrivals and self._arrivals[0][0] <= self._runner.now:
                time, _, name = heappop(self._arrivals)
                self._submit(name, time)
            outputs = self._engine.iterate()
            if outputs is None:
                self._pass_idle_time(self._arrivals[0][0])
            else:
                self._take_all(outputs)
        self._engine.close()
        return measured_figures(self._ttfts, self._runner.now, self._prompt_tokens, self._cached_tokens)

    def _pass_idle_time(self, arrival: float) -> None:
        """Go on to the next arrival."""
        self._runner.now = arrival

    def _take_all(self, outputs: Outputs) -> None:
        for output in outputs.outputs:
            self._take(output)

    def _begin(self, session: Session) -> None:
        self._turns[session.name] = iter(session.turns)
        self._contexts[session.name] = self._tokens(Random(session.prefix), session.prefix_tokens)
        self._plan_turn(session.name)

    def _plan_turn(self, name: str) -> None:
        turn = next(self._turns[name], None)
        if turn is None:
            self._engine.handle(Evict(name))
            self._begin(next(self._sessions))
        else:
            self._turn[name] = turn
            heappush(self._arrivals, (self._runner.now + turn.gap_seconds, next(self._count), name))

    def _submit(self, name: str, time: float) -> None:
        turn, context = self._turn[name], self._contexts[name]
        del context[turn.kept_tokens :]
        context.extend(self._tokens(self._random, turn.new_tokens))
        self._submitted[name] = time
        sampling = SamplingParams(max_tokens=turn.output_tokens)
        self._engine.handle(Submit(name, context[:], len(context), sampling, b"key", name))

    def _take(self, output: RequestOutput) -> None:
        name, context = output.request_id, self._contexts[output.request_id]
        if output.cached_tokens is not None:
            self._first[name] = self._runner.now
            self._prompt_tokens += len(context)
            self._cached_tokens += output.cached_tokens
        context.extend(output.token_ids)
        if output.stop:
            assert not output.error, output.error
            self._ttfts.append(self._first[name] - self._submitted[name])
            ended = self._turn[name]
            self._plan_turn(name)
            if ended.calls_tool and self._turn[name] is not ended:
                self._hold(name)

    def _hold(self, name: str) -> None:
        """Say that the session pauses for its tool."""
        self._engine.handle(Hold(name, 0.0))

    def _tokens(self, random: Random, number: int) -> "array[int]":
        return array("I", random.choices(range(VOCABULARY), k=number))
