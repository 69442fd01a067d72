"""The engine: messages in, one batch per iteration, outputs out. Single-threaded; deterministic given its arguments."""

import logging
import time
from array import array
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice

from roost_worker.config import EngineConfig
from roost_worker.engine.cache import SequenceCache
from roost_worker.engine.messages import (
    Cancel,
    EngineInfo,
    EngineMessage,
    EngineStats,
    Evict,
    Finish,
    Hold,
    Outputs,
    RequestOutput,
    StopReason,
    Submit,
    TokenLogprob,
)
from roost_worker.engine.meter import Meter
from roost_worker.engine.parked import common_prefix
from roost_worker.engine.plan import BatchResult, Runner, Sampled
from roost_worker.engine.policies import DEFAULT_POLICY, POLICIES
from roost_worker.engine.request_check import refusal
from roost_worker.engine.retention import UNKNOWN_HOLD_SECONDS, RetentionPolicy
from roost_worker.engine.running_batches import RunningBatches
from roost_worker.engine.scheduler import Row, ScheduledBatch, Scheduler
from roost_worker.engine.sequence import NO_SLOT, Sequence

logger = logging.getLogger(__name__)

INTEGRITY_SECONDS = 10.0
"""Shortest time between two integrity checks of an idle engine: a check walks over all blocks."""


class Engine:
    """Schedules requests over a runner. Call `handle` for each message and `iterate` while it returns Outputs."""

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig,
        context_tokens: int,
        *,
        policy: RetentionPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        grammar_pool: Executor | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Raise ValueError when the runner's KV memory has no block to use.

        `policy` decides what is evicted first; without it, `DEFAULT_POLICY` does.
        `context_tokens` is lowered to what the model and KV memory allow. `wake` is called from another thread when
        a grammar that a request waits for is compiled, so that the caller calls `iterate` again.
        """
        info = runner.info
        self._runner = runner
        self._clock = clock
        self._wake = wake
        self._grammar_pool = grammar_pool or ThreadPoolExecutor(2, thread_name_prefix="grammar")
        policy = policy or POLICIES[DEFAULT_POLICY](info.pair_cost)
        self._cache = SequenceCache(info.num_blocks, info.block_tokens, policy, host_slots=info.host_slots)
        self._requests: dict[str, Sequence] = {}
        self._compiling: dict[str, Future[str]] = {}
        self._outputs: list[RequestOutput] = []
        self._meter = Meter()
        self._arrivals = 0
        self._dirty = False
        self._next_check = clock()
        capacity = self._cache.pool.total * info.block_tokens
        context_tokens = min(context_tokens, info.context_tokens, capacity)
        self._scheduler = Scheduler(self._cache, config, context_tokens)
        self._batches = RunningBatches(runner, self._scheduler)
        self.info = EngineInfo(
            capacity_tokens=capacity,
            block_tokens=info.block_tokens,
            num_blocks=info.num_blocks,
            bytes_per_block=info.bytes_per_block,
            vocab_size=info.vocab_size,
            context_tokens=context_tokens,
            device=info.device,
            host_slots=info.host_slots,
        )

    @property
    def stats(self) -> EngineStats:
        """A snapshot. Requests whose grammar is being compiled count as waiting."""
        pool, meter, host = self._cache.pool, self._meter, self._cache.host
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting) + len(self._compiling),
            held=self._cache.parked.held(self._clock()),
            blocks_free=pool.free,
            blocks_cached=pool.cached,
            blocks_in_use=pool.in_use,
            lookup_tokens=meter.lookup_tokens,
            hit_tokens=meter.hit_tokens,
            generated_tokens=meter.generated_tokens,
            draft_tokens=meter.draft_tokens,
            right_draft_tokens=meter.right_draft_tokens,
            prefilled_tokens=meter.prefilled_tokens,
            preemptions=self._scheduler.preemptions,
            batches=meter.batches,
            prefill_rate=meter.prefill.value,
            decode_rate=meter.decode.value,
            host_blocks=len(host.slots),
            offloaded_blocks=host.counters.offloaded_blocks,
            displaced_blocks=host.counters.displaced_blocks,
            restored_blocks=host.counters.restored_blocks,
            discarded_blocks=host.counters.discarded_blocks,
            corrupted_blocks=host.counters.corrupted_blocks,
            restore_rate=meter.copy.value * self.info.block_tokens,
        )

    def handle(self, message: EngineMessage) -> None:
        """Handle one message. The answer comes from the next `iterate`; a message about an ended request gets none.

        It may end a sequence that is in a step begun ahead, which is computed for nothing then.
        """
        self._dirty = True
        match message:
            case Submit():
                self._submit(message)
            case Cancel():
                self._end_by_request(message.request_id, StopReason.CANCELLED)
            case Finish():
                self._finish(message)
            case Evict():
                self._cache.retained.evict(message.session, self._clock())
            case Hold():
                self._hold(message)

    def iterate(self) -> Outputs | None:
        """Run one batch, if any request can run. Return None when there is nothing to do or to report.

        Raise RuntimeError when the runner is broken; the engine cannot be used any more then. An idle engine checks its
        integrity now and then.
        """
        self._collect_grammars()
        if finished := self._batches.run_next(self._clock()):
            self._dirty = True
            self._postprocess(*finished)
        elif self._dirty:
            self._dirty = False
            self._check_when_idle()
        else:
            return None
        return self._take_outputs()

    def check_integrity(self) -> None:
        """Raise AssertionError when blocks, parked sequences or requests disagree."""
        running, waiting = self._scheduler.running, self._scheduler.waiting
        assert len(self._requests) == len(running) + len(waiting) + len(self._compiling), "a request is lost"
        assert not any(sequence.blocks for sequence in waiting), "a waiting request has blocks"
        self._cache.check_integrity(running)

    def _check_when_idle(self) -> None:
        now = self._clock()
        if not self._requests and now >= self._next_check:
            self._next_check = now + INTEGRITY_SECONDS
            self.check_integrity()

    def close(self) -> None:
        """Stop compiling grammars and close the runner."""
        self._grammar_pool.shutdown(wait=False, cancel_futures=True)
        self._runner.close()

    def _submit(self, request: Submit) -> None:
        if request.request_id in self._requests:
            logger.warning("request %s was submitted twice; the second is ignored", request.request_id)
            return
        if request.session and request.pause is None:
            self._cache.retained.end_hold(request.session, self._clock())
        if error := refusal(request, self.info):
            self._end_unscheduled(request.request_id, StopReason.FAILED, error)
            return
        self._arrivals += 1
        sequence = Sequence(request, self._arrivals, self._clock())
        if reason := sequence.stop_reason(self.info.context_tokens):
            self._end_unscheduled(request.request_id, reason)
            return
        if request.pause and not self._cache.can_spare_room(sequence, self._clock()):
            self._end_unscheduled(request.request_id, StopReason.CANCELLED, "what is cached is worth more")
            return
        self._requests[request.request_id] = sequence
        self._admit_grammar(sequence)

    def _hold(self, message: Hold) -> None:
        now = self._clock()
        until = now + (message.expect_seconds or UNKNOWN_HOLD_SECONDS)
        self._cache.retained.hold(message.session, until, message.tool, message.expect_seconds, now)

    def _admit_grammar(self, sequence: Sequence) -> None:
        """Queue the request to run, after its grammar is compiled if it has one."""
        grammar = sequence.request.grammar
        if grammar is None:
            self._scheduler.add(sequence, self._clock())
            return
        future = self._grammar_pool.submit(self._runner.check_grammar, grammar)
        self._compiling[sequence.request.request_id] = future
        future.add_done_callback(lambda _: self._wake())

    def _collect_grammars(self) -> None:
        for request_id in [request_id for request_id, future in self._compiling.items() if future.done()]:
            error = _compile_error(self._compiling.pop(request_id))
            self._dirty = True
            if error:
                del self._requests[request_id]
                self._end_unscheduled(request_id, StopReason.FAILED, error)
            else:
                self._scheduler.add(self._requests[request_id], self._clock())

    def _finish(self, message: Finish) -> None:
        sequence = self._requests.get(message.request_id)
        if sequence is None:
            return
        request = sequence.request
        del sequence.ids[request.prompt_len + max(0, message.output_len) :]
        self._end(sequence, StopReason.STOP)

    def _end_by_request(self, request_id: str, reason: StopReason) -> None:
        if sequence := self._requests.get(request_id):
            self._end(sequence, reason)

    def _end(self, sequence: Sequence, reason: StopReason, error: str = "") -> None:
        """End a request that no sampled token ended. The KV of an output that will not be committed is dropped."""
        committed = reason in (StopReason.STOP, StopReason.LENGTH)
        self._outputs.append(self._output(sequence, (), reason, error))
        self._retire(sequence, len(sequence.ids) - 1 if committed else sequence.request.prompt_len)

    def _retire(self, sequence: Sequence, tokens: int) -> None:
        """Forget a request; the KV of its first `tokens` tokens stays parked for its session."""
        request_id = sequence.request.request_id
        del self._requests[request_id]
        if compiling := self._compiling.pop(request_id, None):
            compiling.cancel()
            return
        now = self._clock()
        self._scheduler.remove(sequence, now)
        if sequence.cached_tokens is not None:
            self._cache.park(sequence, tokens, now)

    def _postprocess(self, batch: ScheduledBatch, result: BatchResult) -> None:
        drawing = [(row, chunk.slot) for row, chunk in zip(batch.rows, batch.plan.chunks, strict=True) if chunk.sample]
        if [slot for _, slot in drawing] != [sampled.slot for sampled in result.sampled]:
            raise RuntimeError("the runner drew tokens for other slots than the plan's")
        now = self._clock()
        self._take_copies(batch, result, now)
        gpu_seconds, tokens = result.seconds * self._runner.info.ranks, sum(row.computed for row in batch.rows)
        for row in filter(_goes_on, batch.rows):
            row.sequence.prefilled = True
            self._cache.advance(row.sequence, row.tokens, now)
            row.sequence.gpu_seconds += gpu_seconds * row.computed / tokens
        self._scheduler.observe(batch, result.seconds)
        drawn = [(row, sampled) for (row, _), sampled in zip(drawing, result.sampled, strict=True) if _goes_on(row)]
        generated = sum(self._take_drawn(row, sampled, now) for row, sampled in drawn)
        self._meter.add_batch(batch.prefilled_tokens, generated, len(drawn), result.seconds)

    def _take_copies(self, batch: ScheduledBatch, result: BatchResult, now: float) -> None:
        verdicts = iter(result.intact)
        for sequence in batch.restoring:
            self._cache.take_restored(sequence, tuple(islice(verdicts, sequence.restoring)), now)
        self._meter.copy.add(len(batch.plan.copies), result.copy_seconds)
        self._cache.host.note_rates(self._meter.copy.value, self._meter.prefill.value)

    def _take_drawn(self, row: Row, sampled: Sampled, now: float) -> int:
        """Take what was drawn for a sequence, and end it if that ends it. Return how many tokens were taken."""
        sequence = row.sequence
        if sampled.error:
            self._end(sequence, StopReason.FAILED, sampled.error)
            return 0
        tokens = (sampled.token_id, *sampled.following) if sampled.token_id >= 0 else ()
        reason = sequence.append(tokens, self.info.context_tokens)
        right = self._take_right_guesses(row, tokens, now) if row.draft and tokens else 0
        self._scheduler.learn(row, right)
        if sampled.grammar_done and sequence.drawn == len(tokens):
            reason = StopReason.STOP
        wants_logprobs = sequence.request.sampling.logprobs is not None
        logprobs = ((sampled.logprob, sampled.top),) if tokens and wants_logprobs else ()
        self._outputs.append(self._output(sequence, tokens[: sequence.drawn], reason, logprobs=logprobs))
        if reason:
            self._retire(sequence, len(sequence.ids) - 1)
        return sequence.drawn

    def _take_right_guesses(self, row: Row, tokens: tuple[int, ...], now: float) -> int:
        """Keep the KV of the guesses that were drawn, and return how many that are.

        That of an output's last token is not kept, as it is not computed without a guess.
        """
        right = common_prefix(array("i", row.draft), array("i", tokens))
        self._cache.advance(row.sequence, min(right, row.sequence.drawn - 1), now)
        self._meter.draft_tokens += len(row.draft)
        self._meter.right_draft_tokens += right
        return right

    def _output(
        self,
        sequence: Sequence,
        tokens: tuple[int, ...],
        reason: StopReason | None,
        error: str = "",
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> RequestOutput:
        first, sequence.announced = not sequence.announced, True
        cached = sequence.cached_tokens or 0
        if first and sequence.cached_tokens is not None and not sequence.request.is_background:
            self._meter.lookup_tokens += len(sequence.ids) - len(tokens)
            self._meter.hit_tokens += cached
        return RequestOutput(
            sequence.request.request_id,
            token_ids=tokens,
            logprobs=logprobs,
            stop=reason,
            cached_tokens=cached if first else None,
            queue_seconds=sequence.queue_seconds if first else None,
            gpu_seconds=sequence.gpu_seconds if reason else 0.0,
            computed_tokens=sequence.computed if reason else 0,
            error=error,
        )

    def _end_unscheduled(self, request_id: str, reason: StopReason, error: str = "") -> None:
        self._outputs.append(RequestOutput(request_id, stop=reason, cached_tokens=0, queue_seconds=0.0, error=error))

    def _take_outputs(self) -> Outputs:
        changes = self._cache.retained.take_changes()
        evicted = self._cache.retained.take_evicted()
        outputs, self._outputs = tuple(self._outputs), []
        return Outputs(outputs, changes.parked, changes.dropped, evicted, self.stats, changes.warm)


def _goes_on(row: Row) -> bool:
    """Return whether the row's sequence has not ended since its batch was begun."""
    return row.sequence.slot != NO_SLOT


def _compile_error(future: Future[str]) -> str:
    """Return why the grammar is refused, or an empty string. A compiler that fails refuses it, too."""
    error = future.exception()
    return f"the grammar cannot be compiled: {error!r}" if error else future.result()
