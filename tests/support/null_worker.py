"""A worker without a model: it speaks the whole Generate contract over real gRPC, with scripted output.

Its tokens are counted up from `first_id` of the step, its text is derived from them, so that a test can tell at
once what is missing or doubled. It keeps sessions' heads, orphans and a lease in Redis, as a real worker does.
"""

import asyncio
import contextlib
import secrets
from array import array
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from null_checks import SERVER_OPTIONS, Context, NullChecks
from null_script import BASE_ID, Attempt, Script, log_hash, rendered
from roost.contract.lease import LEASE_PERIOD_SECONDS, LEASE_TTL_SECONDS, WorkerLease
from roost.contract.loghash import unpack_ids
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost.grpc_errors import abort
from roost.store import leases
from roost.store.link import RedisLink
from roost.store.records import StoreAwayError
from roost.v1 import session_service_pb2 as pb
from roost.v1 import worker_service_pb2 as wpb
from roost.v1.worker_service_pb2_grpc import add_WorkerServiceServicer_to_server


class NullWorker(NullChecks):
    """One worker. `start`, then `stop`, or `kill` without a word to anybody."""

    def __init__(
        self,
        redis_url: str,
        pool: str,
        worker_id: str = "null-1",
        script: Script | None = None,
        *,
        secret: str = "",
        revision: str = "rev-1",
        port: int = 0,
    ) -> None:
        super().__init__(script or Script(), secret)
        self.pool = pool
        self.worker_id = worker_id
        self.revision = revision
        self.draining = False
        self.resume_output = asyncio.Event()
        self.parked: dict[str, array[int]] = {}
        self.attempts: dict[str, Attempt] = {}
        self.seen_epochs: dict[str, int] = {}
        self.starts: list[wpb.Start] = []
        self.resumes: list[wpb.Resume] = []
        self.max_bytes_per_token = 0
        self.cancels: list[str] = []
        self.commits: list[tuple[str, pb.Head]] = []
        self.evictions: list[wpb.EvictRequest] = []
        self.holds: list[wpb.HoldRequest] = []
        self.renders: list[wpb.RenderRequest] = []
        self.traces: list[str] = []
        self.changed = asyncio.Event()
        self.address = ""
        self._port = port
        self._boot = secrets.token_hex(4)
        self._redis_url = redis_url
        self._pool = pool
        self._lease_task: asyncio.Task[None] | None = None
        self._server: grpc.aio.Server | None = None

    async def start(self) -> "NullWorker":
        self._link = RedisLink.open(self._redis_url)
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        add_WorkerServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self.address = f"127.0.0.1:{port}"
        self._port = port
        await self._server.start()
        await self.publish()
        self._lease_task = asyncio.create_task(self._keep_lease())
        return self

    async def stop(self) -> None:
        """Withdraws the lease and ends every stream."""
        await self._halt()
        with contextlib.suppress(StoreAwayError):
            await leases.withdraw(self._link, self._pool, self.worker_id)
        await self._link.aclose()

    async def kill(self) -> None:
        """Breaks every stream and loses everything; the lease stays until it runs out."""
        await self._halt()
        await self._link.aclose()

    async def _halt(self) -> None:
        tasks = [attempt.task for attempt in self.attempts.values() if attempt.task is not None]
        tasks += [self._lease_task] if self._lease_task is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(0)
        self.attempts.clear()

    async def publish(self) -> None:
        """Writes lease and residency now."""
        residency = {name: len(ids) for name, ids in self.parked.items()}
        ttl_ms = int(LEASE_TTL_SECONDS * 1000)
        await leases.publish(self._link, self._pool, self._lease(), ttl_ms, changed=residency, gone=(), whole=True)

    def _lease(self) -> WorkerLease:
        return WorkerLease(
            worker_id=self.worker_id,
            boot=self._boot,
            address=self.address,
            model="null",
            model_revision=self.revision,
            capacity_tokens=self.script.capacity_tokens,
            max_running=self.script.max_running,
            max_bytes_per_token=self.max_bytes_per_token,
            running=len(self.attempts),
            draining=self.draining,
        )

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_PERIOD_SECONDS)
            with contextlib.suppress(StoreAwayError):
                await self.publish()

    async def until(self, condition: Any) -> None:
        """Waits until `condition()` holds; it is asked again whenever something happens here."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def has_heard_of(self, commits: int) -> None:
        """Waits until it has heard of so many commits in all: a client hears of its own before."""
        await self.until(lambda: len(self.commits) >= commits)

    async def until_it_hangs(self) -> None:
        """Waits until an attempt has come to the script's `hang_after`."""
        attempts, tokens = self.attempts, self.script.hang_after
        await self.until(lambda: any(not attempt.done and len(attempt.ids) == tokens for attempt in attempts.values()))

    def _happened(self) -> None:
        self.changed.set()

    async def Generate(self, requests: AsyncIterator[wpb.GenerateRequest], context: Context) -> None:  # noqa: N802
        await self._check_secret(context)
        self.traces += [str(value) for name, value in context.invocation_metadata() or () if name == "traceparent"]
        first = await anext(aiter(requests))
        if self.script.refuse is not None:
            await abort(context, Refused(self.script.refuse, "scripted refusal", retry_seconds=0.1))
        if self.draining:
            await abort(context, Refused(Reason.WORKER_DRAINING, "draining"))
        fault_point("worker.start")
        if first.HasField("start"):
            attempt, sent = await self._begin(first.start, requests, context)
        else:
            attempt, sent = await self._take_over(first.resume, context)
        reader = asyncio.create_task(self._hear(attempt, requests))
        try:
            await self._write(attempt, sent, context)
            await reader
        finally:
            reader.cancel()

    async def _begin(
        self, start: wpb.Start, requests: AsyncIterator[wpb.GenerateRequest], context: Context
    ) -> tuple[Attempt, int]:
        self.starts.append(start)
        self._happened()
        session_id = start.session.session_id
        await self._check_epoch(session_id, start.attempt.epoch, context)
        if start.model_revision != self.revision:
            await abort(context, Refused(Reason.MODEL_REVISION_MISMATCH, "another revision"))
        history, cached = await self._history(start, requests, context)
        self._drop(session_id)
        replay = start.replay if start.HasField("replay") else None
        prompt = array("I", replay.prompt_token_ids) if replay else array("I", range(self.script.prompt_ids))
        total = min(self.script.tokens, start.sampling.max_tokens or self.script.tokens)
        attempt = Attempt(start.attempt.epoch, start.attempt.nonce, session_id, history, prompt, total, cached)
        attempt.ids = array("I", replay.output_token_ids) if replay else array("I")
        self.attempts[session_id] = attempt
        attempt.task = asyncio.create_task(self._decode(attempt))
        return attempt, len(attempt.ids)

    async def _take_over(self, resume: wpb.Resume, context: Context) -> tuple[Attempt, int]:
        self.resumes.append(resume)
        self._happened()
        attempt = self.attempts.get(resume.session_id)
        if attempt is None or attempt.nonce != resume.attempt.nonce or self.script.forget_orphans:
            await abort(context, Refused(Reason.ATTEMPT_UNKNOWN, "nothing to resume"))
        await self._check_epoch(resume.session_id, resume.new_attempt.epoch, context)
        attempt.epoch, attempt.nonce = resume.new_attempt.epoch, resume.new_attempt.nonce
        return attempt, resume.from_token

    async def _check_epoch(self, session_id: str, epoch: int, context: Context) -> None:
        if epoch < self.seen_epochs.get(session_id, 0):
            await abort(context, Refused(Reason.ATTEMPT_FENCED, "an older attempt"))
        self.seen_epochs[session_id] = epoch

    async def _history(
        self, start: wpb.Start, requests: AsyncIterator[wpb.GenerateRequest], context: Context
    ) -> tuple["array[int]", int]:
        """The log, and how much of it was here."""
        length = start.session.head.length
        here = self.parked.get(start.session.session_id, array("I"))
        if len(here) == length and not self.script.ask_history:
            return array("I", here), max(0, length - 1)
        await context.write(wpb.GenerateResponse(need_history=wpb.NeedHistory(from_token=0)))
        history, ends = array("I"), list[int]()
        async for request in requests:
            assert request.history.offset == len(history), "history with a gap"
            history.extend(unpack_ids(request.history.token_ids))
            ends += request.history.step_ends
            if request.history.last:
                break
        assert log_hash(history, ends) == start.session.head.log_hash, "history that does not hash to the head"
        return history, 0

    async def _decode(self, attempt: Attempt) -> None:
        while not attempt.done and not attempt.cancelled:
            if self.script.hang_after is not None and len(attempt.ids) >= self.script.hang_after:
                await self.resume_output.wait()
            if self.script.interval:
                await asyncio.sleep(self.script.interval)
            for _ in range(min(self.script.tokens_per_delta, attempt.total - len(attempt.ids))):
                attempt.ids.append(BASE_ID + len(attempt.ids))
                fault_point("worker.token")
            attempt.grown.set()
            self._happened()
        attempt.grown.set()

    async def _write(self, attempt: Attempt, sent: int, context: Context) -> None:
        accepted = wpb.Accepted(prompt_token_ids=attempt.prompt, cached_tokens=attempt.cached)
        await context.write(wpb.GenerateResponse(accepted=accepted))
        fault_point("worker.accepted")
        nonce, sent_bytes = attempt.nonce, len(attempt.text(sent).encode())
        while not attempt.cancelled and attempt.nonce == nonce:
            attempt.grown.clear()
            if sent < len(attempt.ids):
                sent, sent_bytes = await self._write_delta(attempt, sent, sent_bytes, context)
            if sent >= attempt.total:
                break
            if sent == len(attempt.ids):
                await attempt.grown.wait()
        if attempt.cancelled or attempt.nonce != nonce:
            return
        fault_point("worker.stop")
        await context.write(wpb.GenerateResponse(finished=self._finished(attempt)))
        fault_point("worker.finished")

    async def _write_delta(self, attempt: Attempt, sent: int, sent_bytes: int, context: Context) -> tuple[int, int]:
        limit = self.script.break_after
        if limit is not None and self.script.break_always:
            limit = max(limit, sent + 1)
        upto = len(attempt.ids) if limit is None or sent >= limit else min(limit, len(attempt.ids))
        delta = attempt.delta(sent, upto, sent_bytes, lies=self.script.lie_about_offsets)
        await context.write(wpb.GenerateResponse(delta=delta))
        fault_point("worker.delta.sent")
        if limit is not None and upto == limit:
            self.script.break_after = limit if self.script.break_always else None
            await context.abort(grpc.StatusCode.UNAVAILABLE, "scripted break")
        return upto, sent_bytes + len(delta.text.encode())

    def _finished(self, attempt: Attempt) -> wpb.Finished:
        calls = [
            pb.ToolCall(id=attempt.call_id(number), name=name, arguments_json=arguments)
            for number, (name, arguments) in enumerate(self.script.calls)
        ]
        return wpb.Finished(
            finish_reason=pb.FINISH_REASON_TOOL_CALLS if calls else pb.FINISH_REASON_STOP,
            output_tokens=len(attempt.ids),
            text=attempt.text(),
            content=attempt.text(),
            tool_calls=calls,
            cached_tokens=attempt.cached,
            warnings=self.script.warnings,
            reasoning=self.script.reasoning,
            reasoning_tokens=self.script.reasoning_tokens,
            stop_string=self.script.stop_string,
            gpu_seconds=self.script.gpu_seconds,
        )

    async def _hear(self, attempt: Attempt, requests: AsyncIterator[wpb.GenerateRequest]) -> None:
        async for request in requests:
            if request.HasField("cancel"):
                self._cancel(attempt)
            elif request.HasField("commit"):
                self._commit(attempt, request.commit.head)

    def _cancel(self, attempt: Attempt) -> None:
        self.cancels.append(attempt.session_id)
        attempt.cancelled = True
        attempt.grown.set()
        if self.attempts.get(attempt.session_id) is attempt:  # not if the session's next step has begun
            self._drop(attempt.session_id)
        self._happened()

    def _commit(self, attempt: Attempt, head: pb.Head) -> None:
        self.commits.append((attempt.session_id, head))
        self.parked[attempt.session_id] = attempt.history + attempt.prompt + attempt.ids
        if self.attempts.get(attempt.session_id) is attempt:
            del self.attempts[attempt.session_id]
        self._happened()

    def _drop(self, session_id: str) -> None:
        old = self.attempts.pop(session_id, None)
        if old is not None:
            old.cancelled = True
            old.grown.set()
            if old.task is not None:
                old.task.cancel()

    async def Evict(self, request: wpb.EvictRequest, context: Context) -> wpb.EvictResponse:  # noqa: N802
        await self._check_secret(context)
        self.evictions.append(request)
        self._happened()
        if request.epoch < self.seen_epochs.get(request.session_id, 0):
            return wpb.EvictResponse()
        self.seen_epochs[request.session_id] = request.epoch
        return wpb.EvictResponse(evicted_tokens=len(self.parked.pop(request.session_id, array("I"))))

    async def RecallEviction(  # noqa: N802
        self, request: wpb.RecallEvictionRequest, context: Context
    ) -> wpb.RecallEvictionResponse:
        await self._check_secret(context)
        return wpb.RecallEvictionResponse(eviction=self.script.eviction)

    async def Hold(self, request: wpb.HoldRequest, context: Context) -> wpb.HoldResponse:  # noqa: N802
        await self._check_secret(context)
        self.holds.append(request)
        self._happened()
        return wpb.HoldResponse()

    async def Render(self, request: wpb.RenderRequest, context: Context) -> wpb.RenderResponse:  # noqa: N802
        await self._check_secret(context)
        self.renders.append(request)
        refusal, self.script.refuse_render = self.script.refuse_render, None
        if refusal is not None:
            await abort(context, Refused(refusal, "scripted refusal"))
        assert request.model_revision == self.revision
        return rendered(request, short=self.script.renders_short)

    async def GetState(self, request: wpb.GetStateRequest, context: Context) -> wpb.GetStateResponse:  # noqa: N802
        return wpb.GetStateResponse(worker_id=self.worker_id, boot=self._boot, model_revision=self.revision)
