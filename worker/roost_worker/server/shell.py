"""The worker's shell, between attempts and the engine. It belongs to one event loop and knows no gRPC."""

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from roost.contract.heads import AttemptRef, Head
from roost.contract.lease import LEASE_TTL_SECONDS, WorkerLease
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost_worker.config import WorkerConfig
from roost_worker.engine.messages import (
    Cancel,
    EngineMessage,
    EngineStats,
    Evict,
    Finish,
    Hold,
    Outputs,
    RequestOutput,
    StopReason,
    Submit,
)
from roost_worker.grammar import CompilePool
from roost_worker.render.detokenizer import TextStream
from roost_worker.render.fidelity import Limit
from roost_worker.render.renderer import Renderer
from roost_worker.seam.client import EngineClient, EngineDeadError
from roost_worker.server import refusals
from roost_worker.server.attempts import Attempt, AttemptTable, Ending
from roost_worker.server.cache_keys import cache_root
from roost_worker.server.evictions import EvictionMemory
from roost_worker.server.identity import WorkerIdentity
from roost_worker.server.output import OutputCursor
from roost_worker.server.prompts import Prompts
from roost_worker.server.rebuilds import Rebuilds
from roost_worker.server.requests import Work
from roost_worker.server.residency import SessionResidency
from roost_worker.server.session_log import SessionLog
from roost_worker.server.sessions import SessionTable
from roost_worker.server.stages import DECODING, of_request

LOG = logging.getLogger(__name__)
EVICT_SECONDS = 10.0
_LEARN = 0.1  # share of each new sample in the running mean of bytes per token


class Shell:
    """Sessions, attempts and residency of one worker; takes each attempt through the engine."""

    def __init__(
        self,
        config: WorkerConfig,
        identity: WorkerIdentity,
        engine: EngineClient,
        renderer: Renderer,
        grammars: CompilePool,
        *,
        limits: Sequence[Limit] = (),
        keep_seconds: float = LEASE_TTL_SECONDS,
    ) -> None:
        """`limits` are the model's; `keep_seconds` is how long an orphan's output outlives its stream."""
        self.config, self.identity, self.engine, self.renderer = config, identity, engine, renderer
        self.grammars, self.prompts = grammars, Prompts(renderer)
        self.sessions, self.attempts = SessionTable(), AttemptTable()
        self.residency = SessionResidency()
        self.evictions = EvictionMemory(config.kv.eviction_policy)
        self.held: set[str] = set()
        self.stats = EngineStats(blocks_free=engine.info.capacity_tokens // engine.info.block_tokens)
        self.rebuilds = Rebuilds(self._send)
        self.draining = self.leaving = False
        """Whether it takes no attempts, or, because it is about to drain, none of sessions that it does not hold."""
        self.leaving_seconds = 0.0
        self.bytes_per_token = 4.0
        self.idle = asyncio.Event()
        self.idle.set()
        self._limits = tuple(limit.kind.value for limit in limits)
        self._keep_seconds = keep_seconds
        self._numbers = itertools.count(1)
        self._evictions: dict[str, asyncio.Future[int]] = {}

    @property
    def limit(self) -> int:
        """Most tokens of a context: log, prompt and output."""
        return min(self.engine.info.context_tokens, self.engine.info.capacity_tokens)

    @property
    def has_nothing_to_do(self) -> bool:
        """Whether no step is here and no session is rebuilt."""
        return self.idle.is_set() and not self.rebuilds

    def begin(self, session: str, ref: AttemptRef) -> Attempt:
        """Register a new attempt and fence the session's older one. Raise Refused: draining, fenced."""
        if self.draining or (self.leaving and not self._holds(session)):
            raise refusals.draining()
        if session and not self.sessions.admit(session, ref):
            raise refusals.fenced()
        older = self.attempts.of_session(session) or self.attempts.find(session, ref)
        if older is not None:
            self.end(older, Ending.FENCED)
        self.rebuilds.make_way(session)
        attempt = Attempt(f"{ref.nonce.hex()}-{next(self._numbers)}", session, ref)
        attempt.attach(OutputCursor())
        self.attempts.add(attempt)
        self.idle.clear()
        return attempt

    def resume(self, session: str, old: AttemptRef, new: AttemptRef, cursor: OutputCursor) -> Attempt:
        """Give an attempt's output to a newer attempt. Raise Refused: fenced, unknown."""
        if session and not self.sessions.admit(session, new):
            raise refusals.fenced()
        attempt = self.attempts.find(session, old)
        if attempt is None or not attempt.submitted or not attempt.output.can_resume(cursor):
            raise refusals.unknown_attempt()
        self.attempts.rename(attempt, new)
        attempt.attach(cursor)
        return attempt

    def submit(self, attempt: Attempt, log: SessionLog, work: Work, tenant: str, priority: int, role: str) -> None:
        """Submit a rendered step to the engine. Raise Refused when the engine is gone."""
        attempt.log, attempt.turn, attempt.constrained = log, work.turn, work.grammar is not None
        attempt.unenforced, attempt.call_seed = work.unenforced, work.call_seed
        attempt.expected_cached = min(self.residency.tokens(attempt.session), len(log.ids))
        attempt.ahead_tokens = min(self.rebuilds.ahead.of(attempt.session), attempt.expected_cached)
        attempt.eviction = self.evictions.recall(attempt.session, time.monotonic())
        text = TextStream(self.renderer, work.stop, min_tokens=work.sampling.min_tokens)
        with of_request(DECODING):
            cut = attempt.begin(work.prompt_ids, text, work.replayed)
        self.held.discard(attempt.session)
        self._send(
            Submit(
                attempt.request_id,
                log.ids + work.prompt_ids + work.replayed,
                len(log.ids) + len(work.prompt_ids),
                work.sampling,
                cache_root(self.config.pool_secret, tenant),
                attempt.session or None,
                work.grammar,
                priority,
                role,
            )
        )
        attempt.submitted = True
        if cut is not None:
            self._send(Finish(attempt.request_id, cut))

    def set_deadline(self, attempt: Attempt, milliseconds: int) -> None:
        """End the attempt if its output is not complete after this time; 0 means never."""
        attempt.disarm()
        if milliseconds and not attempt.over:
            loop = asyncio.get_running_loop()
            attempt.deadline = loop.call_later(milliseconds / 1000, self.end, attempt, Ending.DEADLINE)

    def end(self, attempt: Attempt, ending: Ending, error: str = "") -> None:
        """End an attempt without a result and forget it; the engine frees its blocks in its next iteration."""
        runs = attempt.submitted and not attempt.over
        attempt.end(ending, error)
        self._forget(attempt)
        if runs:  # last, so that the attempt has ended whatever becomes of it
            with suppress(Refused):
                self._send(Cancel(attempt.request_id))

    def release(self, attempt: Attempt) -> None:
        """Let go of an attempt whose stream broke: if it was submitted, it goes on as an orphan."""
        if not attempt.submitted:
            self.end(attempt, Ending.CANCELLED)
        elif self.attempts.of_request(attempt.request_id) is attempt:
            attempt.detach(attempt.reader, time.monotonic())
            asyncio.get_running_loop().call_later(self._keep_seconds + 0.01, self.sweep)

    def sweep(self) -> None:
        """Cancel and forget orphans that no stream took over in time."""
        for attempt in self.attempts.expired(time.monotonic(), self._keep_seconds):
            self.end(attempt, Ending.CANCELLED)

    def commit(self, attempt: Attempt, head: Head) -> None:
        """Forget the output of an attempt whose step is durable; its sequence stays parked under `head`."""
        if attempt.session and not self.sessions.commit(attempt.session, head):
            LOG.warning("session %s was committed with a head that is not this worker's", attempt.session)
        self._forget(attempt)

    async def evict(self, session: str, epoch: int, *, erased: bool = False) -> int:
        """Drop a session's cache and fence its attempt; return the tokens dropped, 0 for an old epoch. Nothing is
        remembered of the KV of a session that is erased.

        Raise Refused when the engine is gone.
        """
        if not self.sessions.admit(session, AttemptRef(epoch)):
            return 0
        running = self.attempts.of_session(session)
        if running is not None:
            self.end(running, Ending.FENCED)
        self.rebuilds.end(session)
        self.sessions.drop(session)
        dropped = self._evictions.setdefault(session, asyncio.get_running_loop().create_future())
        self._send(Evict(session))
        async with asyncio.timeout(EVICT_SECONDS):
            tokens = await asyncio.shield(dropped)
        if erased:
            self.evictions.forget(session)
        else:
            self.evictions.requested(session, tokens, time.monotonic())
        return tokens

    def hold(self, session: str, tool: str, expect_seconds: float) -> None:
        """Tell the retention policy that the session pauses. Raise Refused when the engine is gone."""
        if session in self.residency.on_device:
            self.held.add(session)
        self._send(Hold(session, expect_seconds, tool))

    def take(self, outputs: Outputs) -> None:
        """Take the outputs of one iteration."""
        self.stats = outputs.stats
        for evicted in outputs.evicted:
            self.evictions.made_room(evicted, time.monotonic(), outputs.stats.prefill_rate)
        # Drops come first: a step of the same session may have ended, and been parked, after a drop.
        for session, tokens in outputs.dropped:
            self._take_dropped(session, tokens)
        for session in self.residency.take_losses(outputs):
            self.sessions.drop(session)
        for output in outputs.outputs:
            self._take_output(output)
            self.rebuilds.take(output)
        self.residency.take_parked(outputs)
        self.rebuilds.take_cached(outputs, self.residency)

    def lose(self) -> None:
        """End every attempt, on every stream, because the engine is gone."""
        for attempt in self.attempts:
            attempt.end(Ending.LOST)
            self._forget(attempt)
        self.rebuilds.lose()
        for eviction in self._evictions.values():
            eviction.set_exception(refusals.lost())
        self._evictions.clear()
        self.residency.clear()

    def learn_text_size(self, text_bytes: int, tokens: int) -> None:
        """Update the running mean of bytes of text per token."""
        if tokens and text_bytes:
            self.bytes_per_token += _LEARN * (text_bytes / tokens - self.bytes_per_token)

    def lease(self) -> WorkerLease:
        """Return the lease: the worker's state, for its gateways."""
        info, stats = self.engine.info, self.stats
        # A worker that stops is waited for until it runs nothing, so attempts that the engine has not seen yet count.
        unseen = len(self.attempts) - stats.running if self.draining or self.leaving else 0
        return WorkerLease(
            worker_id=self.identity.worker_id,
            boot=self.identity.boot,
            address=self.identity.address,
            model=self.config.model.name,
            model_revision=self.identity.revision,
            capacity_tokens=info.capacity_tokens,
            max_running=self.config.engine.max_running,
            running=stats.running,
            waiting=max(stats.waiting, unseen),
            free_tokens=(stats.blocks_free + stats.blocks_cached) * info.block_tokens,
            prefill_rate=stats.prefill_rate,
            decode_rate=stats.decode_rate,
            restore_rate=stats.restore_rate if info.host_slots else 0.0,
            bytes_per_token=round(self.bytes_per_token, 3),
            max_bytes_per_token=self.renderer.vocabulary.max_bytes_per_token,
            draining=self.draining,
            leaving=self.leaving,
            leaving_seconds=self.leaving_seconds,
            idle=self.has_nothing_to_do and not (self.draining or self.leaving),
            limits=self._limits,
        )

    def _holds(self, session: str) -> bool:
        return session in self.residency or self.attempts.of_session(session) is not None

    def _take_output(self, output: RequestOutput) -> None:
        """Take what one iteration produced for a request. A failure here ends that request alone."""
        attempt = self.attempts.of_request(output.request_id)
        if attempt is None or attempt.over:
            return
        try:
            self._add_output(attempt, output)
        except Refused as refused:
            self.end(attempt, Ending.UNREADABLE, refused.message)
        except Exception as error:
            LOG.exception("the output of session %s cannot be taken", attempt.session or "(none)")
            self.end(attempt, Ending.FAILED, f"{type(error).__name__} in the output; its log says more")

    def _add_output(self, attempt: Attempt, output: RequestOutput) -> None:
        if output.cached_tokens is not None:
            attempt.cached_tokens = output.cached_tokens
            attempt.queue_seconds = output.queue_seconds or 0.0
            if output.stop is not StopReason.FAILED:  # it has run, so that the session's KV is rebuilt
                attempt.eviction = self.evictions.recall(attempt.session, time.monotonic())
                self.evictions.forget(attempt.session)
                attempt.ahead_tokens = self.rebuilds.ahead.use(attempt.session, output.cached_tokens)
        if output.token_ids:
            self._take_tokens(attempt, output)
        if output.stop is not None:
            self._stop(attempt, output)

    def _take_tokens(self, attempt: Attempt, output: RequestOutput) -> None:
        for _ in output.token_ids:
            fault_point("worker.token")
        with of_request(DECODING):
            cut = attempt.take(output.token_ids, output.logprobs)
        if cut is not None and output.stop is None:
            with suppress(Refused):
                self._send(Finish(attempt.request_id, cut))

    def _stop(self, attempt: Attempt, output: RequestOutput) -> None:
        attempt.gpu_seconds = output.gpu_seconds
        if output.stop not in (StopReason.STOP, StopReason.LENGTH):
            attempt.submitted = False
            ending = Ending.GRAMMAR if attempt.constrained else Ending.FAILED
            self.end(attempt, ending, output.error or "it was cancelled")
            return
        fault_point("worker.stop")
        with of_request(DECODING):
            attempt.finish(StopReason.STOP if attempt.stopped else output.stop)
        attempt.disarm()
        if attempt.session and attempt.log is not None:
            step_ids = attempt.prompt_ids + attempt.output.ids
            self.sessions.finish(attempt.session, attempt.log, step_ids)

    def _take_dropped(self, session: str, tokens: int) -> None:
        self.held.discard(session)
        eviction = self._evictions.pop(session, None)
        if eviction is not None and not eviction.done():
            eviction.set_result(tokens)

    def _forget(self, attempt: Attempt) -> None:
        attempt.disarm()
        self.attempts.remove(attempt)
        if not len(self.attempts):
            self.idle.set()

    def _send(self, message: EngineMessage) -> None:
        try:
            self.engine.send(message)
        except EngineDeadError as error:
            raise refusals.lost() from error
