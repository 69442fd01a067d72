"""The load of `bench_gateway`: steps begun at an even rate, directly at the worker or through the gateway."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import psutil
from figures import percentiles

from gateway_driver import POOL
from lean_worker import STAMP_BYTES
from null_script import BASE_ID
from roost.v1 import session_service_pb2 as pb
from roost.v1 import worker_service_pb2 as wpb
from roost.v1.session_service_pb2_grpc import SessionServiceStub
from roost.v1.worker_service_pb2_grpc import WorkerServiceStub

TOKENS, INTERVAL, PROMPT_IDS = 64, 0.020, 1000
"""Of a step: tokens, seconds between them unless a benchmark says otherwise, and ids of the prompt."""
SLACK_SECONDS = 0.72
"""For the first step of a session, beyond what the null worker makes it last."""


@dataclass(slots=True)
class Sample:
    """Latencies of one run in milliseconds."""

    interval: float
    """Seconds between the null worker's tokens."""
    first: list[float] = field(default_factory=list)
    delta: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    messages: int = 0
    late: float = 0.0
    """How late the generator itself was, at worst."""
    cpu_ms: dict[str, float] = field(default_factory=dict)
    """CPU of each process per step."""
    new_sessions: dict[str, dict[str, float]] = field(default_factory=dict)
    """Percentiles of the steps before, each the first of its session."""
    offered: float = 0.0
    """Steps a second that were begun."""
    shed: int = 0
    """Steps that were not begun, because every session was busy."""
    began: float = 0.0
    last_end: float = 0.0

    def ended(self) -> None:
        self.last_end = time.monotonic()

    @property
    def seconds(self) -> float:
        """From the first step's call to the last one's end, less one script: as long as steps were begun, unless they
        ended slower."""
        return max(0.001, self.last_end - self.began - script_seconds(self.interval))

    @property
    def achieved(self) -> float:
        """Steps a second that ended."""
        return len(self.step) / self.seconds

    @property
    def saturated(self) -> bool:
        return self.shed > 0 or self.achieved < 0.95 * self.offered

    def percentiles(self) -> dict[str, dict[str, float]]:
        return {name: percentiles(getattr(self, name)) for name in ("first", "delta", "step")}

    def added_to(self, direct: "Sample") -> dict[str, dict[str, float]]:
        """Percentiles less those of direct calls."""
        ours, theirs = self.percentiles(), direct.percentiles()
        return {name: {cut: round(ours[name][cut] - theirs[name][cut], 3) for cut in ours[name]} for name in ours}


def script_seconds(interval: float) -> float:
    """How long the null worker's output takes."""
    return TOKENS * interval


class Reading:
    """One step's deltas as they arrive; checks the payload."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._began = time.monotonic()
        self._tokens = 0
        self._bytes = 0

    def delta(self, delta: Any) -> None:
        now = time.monotonic()
        if not self._tokens:
            self._sample.first.append((now - self._began - self._sample.interval) * 1e3)
        _check(delta.token_offset == self._tokens and delta.text_offset == self._bytes, "a gap or an overlap")
        _check(delta.token_ids[0] == BASE_ID + self._tokens, "other ids than the worker's")
        text, count = delta.text, len(delta.token_ids)
        _check(len(text) == count * STAMP_BYTES, "text and ids do not match")
        for place in range(0, len(text), STAMP_BYTES):
            self._sample.delta.append((now - float(text[place : place + STAMP_BYTES])) * 1e3)
        self._tokens += count
        self._bytes += len(text)
        self._sample.messages += 1

    def end(self) -> None:
        _check(self._tokens == TOKENS, f"{self._tokens} tokens of {TOKENS}")
        seconds = time.monotonic() - self._began - script_seconds(self._sample.interval)
        self._sample.step.append(seconds * 1e3)
        self._sample.ended()


def _check(good: bool, what: str) -> None:
    if not good:
        raise SystemExit(f"wrong payload: {what}")


class Direct:
    """Calls the worker as a gateway would, with nothing in between."""

    def __init__(self, address: str, deltas: "pb.Deltas.ValueType") -> None:
        self._deltas = deltas
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = WorkerServiceStub(self._channel)

    async def step(self, number: int, sample: Sample) -> None:
        reading = Reading(sample)
        call = self._stub.Generate(metadata=[("roost-pool-secret", "")])
        start = wpb.Start(sampling=pb.Sampling(max_tokens=TOKENS), deltas=self._deltas)
        await call.write(wpb.GenerateRequest(start=start))
        async for response in call:
            kind = response.WhichOneof("message")
            if kind == "delta":
                reading.delta(response.delta)
            elif kind == "finished":
                break
        await call.write(wpb.GenerateRequest(commit=wpb.Commit()))
        await call.done_writing()
        reading.end()

    async def aclose(self) -> None:
        await self._channel.close(0)


class Through:
    """Takes steps through the gateway, each in the session that has rested longest."""

    def __init__(self, address: str, deltas: "pb.Deltas.ValueType") -> None:
        self._deltas = deltas
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)])
        self._stub = SessionServiceStub(self._channel)
        self._idle: asyncio.Queue[str] = asyncio.Queue()

    async def renew(self, count: int) -> None:
        """Gives the sessions there were up for `count` new ones."""
        self._idle = asyncio.Queue()
        for _ in range(count):
            answer = await self._stub.OpenSession(pb.OpenSessionRequest(pool=POOL))
            self._idle.put_nowait(answer.session.id)

    async def step(self, number: int, sample: Sample) -> None:
        if self._idle.empty():
            sample.shed += 1
            return
        session_id = self._idle.get_nowait()
        message = pb.Message(role=pb.MESSAGE_ROLE_USER, content="x" * 400)
        request = pb.StepRequest(
            session_id=session_id,
            step_id=f"{number}-{time.monotonic_ns()}",
            messages=[message],
            deltas=self._deltas,
        )
        reading = Reading(sample)
        async for response in self._stub.Step(request, timeout=120):
            kind = response.WhichOneof("event")
            if kind == "delta":
                reading.delta(response.delta)
            elif kind == "committed":
                reading.end()
        self._idle.put_nowait(session_id)

    async def aclose(self) -> None:
        await self._channel.close(0)


def arrivals(rate: float, seconds: float, *, even: bool) -> list[float]:
    """When steps begin, in seconds: at random, as independent clients do, the same times for the same rate; or evenly.
    At 50 steps a second evenly means in step with the worker's deltas, so that all of them come at once."""
    count = int(rate * seconds)
    if even:
        return [number / rate for number in range(count)]
    chance = random.Random(count)
    return sorted(chance.uniform(0.0, seconds) for _ in range(count))


async def load(
    rate: float, seconds: float, step: Callable[[int, Sample], Awaitable[None]], *, interval: float, even: bool
) -> tuple[Sample, Sample]:
    """Begins `rate` steps a second, whether earlier ones have ended or not. Returns what came of those that began while
    the first ones ran, and of those of the `seconds` after that."""
    begin, warm = time.monotonic(), script_seconds(interval) + SLACK_SECONDS
    first, sample = Sample(interval, offered=rate, began=begin), Sample(interval, offered=rate, began=begin + warm)
    running = set[asyncio.Task[None]]()
    for number, after in enumerate(arrivals(rate, warm + seconds, even=even)):
        await asyncio.sleep(max(0.0, begin + after - time.monotonic()))
        counted = first if after < warm else sample
        counted.late = max(counted.late, (time.monotonic() - begin - after) * 1e3)
        running.add(asyncio.ensure_future(step(number, counted)))
    await asyncio.gather(*running)
    return first, sample


class Meter:
    """CPU of the processes of one measurement."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}

    def read(self) -> dict[str, float]:
        """Seconds of CPU since the start of each."""
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}


async def measured(
    rate: float, seconds: float, through: Through, meter: Meter, *, interval: float, even: bool
) -> Sample:
    """A run through the gateway, in sessions that have all had a step, with the CPU of every process."""
    await through.renew(int(rate * (script_seconds(interval) + SLACK_SECONDS)))
    before = meter.read()
    first, sample = await load(rate, seconds, through.step, interval=interval, even=even)
    after, steps = meter.read(), len(first.step) + len(sample.step)
    sample.cpu_ms = {name: round((after[name] - before[name]) * 1e3 / max(1, steps), 3) for name in after}
    sample.new_sessions = first.percentiles()
    return sample
