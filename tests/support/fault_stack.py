"""A whole pool (real Redis, two gateways, two workers, a tiny float64 model) that can be hurt at fault points."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis.asyncio

from fork_server import GATEWAYS, ForkedProcess
from forked_stack import forked_processes
from roost import (
    Client,
    Committed,
    Delta,
    Deltas,
    Format,
    JsonSchema,
    LoggedStep,
    Migrated,
    Restarted,
    Sampling,
    Session,
    StepResult,
)
from roost.contract.loghash import extend, pack_ids
from roost.contract.parts import PartLog, parts_of_message
from roost.fault_points import DIRECTORY_VARIABLE
from roost.store.keys import PoolKeys
from roost_operator.api.spec import AgentPool
from roost_operator.local import processes
from roost_operator.local.runner import LocalStack, StackOptions

LIMIT_SECONDS = 90.0
SYSTEM, OPENING, QUESTION, CLOSING = "You are terse.", "Begin.", "Go on.", "End."
SHORT = Sampling(temperature=0.0, max_tokens=4, ignore_eos=True)
LONG = Sampling(temperature=0.0, max_tokens=24, ignore_eos=True)


def tiny_pool(
    name: str, roles: Sequence[Mapping[str, Any]], *, replicas: int, context: int, memory: str, batch: int, dtype: str
) -> dict[str, Any]:
    """A pool with a tiny random model, whose workers stop quickly."""
    model = {
        "name": "tiny",
        "source": "dummy://llama-tiny",
        "dtype": dtype,
        "contextTokens": context,
        "kvCache": {"blockTokens": 16, "memory": memory},
        "engine": {"maxRunning": 8, "maxBatchTokens": batch},
    }
    workers = {"replicas": replicas, "drainTimeoutSeconds": 1}
    spec = {"models": [model], "workers": workers, "roles": [*roles]}
    return {"apiVersion": "roost.dev/v1alpha1", "kind": "AgentPool", "metadata": {"name": name}, "spec": spec}


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Waits for something that other processes do."""
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not await holds():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited {LIMIT_SECONDS:.0f} s for {what}") from None


@dataclass
class Point:
    """An armed fault point."""

    path: Path

    async def reached(self) -> int:
        """Pid of the process that got there."""
        file = self.path.with_name(f"{self.path.name}.reached")

        async def exists() -> bool:
            return file.exists()

        await until(exists, f"{self.path.name} to be reached")
        return int(file.read_text())

    def go(self) -> None:
        """Lets the paused process go on."""
        self.path.with_name(f"{self.path.name}.go").touch()

    def disarm(self) -> None:
        for file in self.path.parent.glob(f"{self.path.name}*"):
            file.unlink()


@dataclass
class Seen:
    """What the client was streamed of one step: the journal that decides."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    parts: PartLog = field(default_factory=PartLog)
    restarts: int = 0
    migrations: list[Migrated] = field(default_factory=list)
    result: StepResult | None = None


class FaultStack:
    """The pool and the means to hurt it."""

    def __init__(self, stack: LocalStack, faults: Path) -> None:
        self.stack = stack
        self._faults = faults

    def arm(self, name: str, action: str) -> Point:
        """Arms a point with `kill` or `pause`, or either with `:n`."""
        temporary = self._faults / f".{name}"
        temporary.write_text(action)
        return Point(temporary.rename(self._faults / name))

    async def whole(self) -> None:
        """Waits until everything that was killed is back."""
        await until(self._is_whole, "the stack to be whole again")

    async def _is_whole(self) -> bool:
        stack = self.stack
        supervised = (stack.redis, *stack.gateways, *stack.workers)
        leases = {lease.address for lease in await stack.leases()}
        gateways = await asyncio.gather(*(process.command.ready() for process in stack.gateways))
        return all(process.pid for process in supervised) and len(leases) == 2 and all(gateways)

    async def everything_is_free(self) -> None:
        """Waits until the ledger holds neither reservation nor waiter."""

        async def nothing_is_claimed() -> bool:
            return not await self.claims()

        await until(nothing_is_claimed, "reservations to be given back")

    async def kill_worker_of(self, session: str) -> None:
        """SIGKILLs the worker at which the session's attempt runs."""
        client = redis.asyncio.Redis.from_url(self.stack.redis_url, decode_responses=True)
        async with client:
            descriptor = PoolKeys(self.stack.pool.pool).session(session)
            attempt, owner = await client.hmget(descriptor, "attempt:worker", "owner")
            worker_id = attempt or owner  # committed already: the worker that has just finished it
        # Each worker's log names its starts. A lease would not do: the gateway may have chosen that of a process which
        # was killed before and has restarted at the same address, and such a lease expires.
        (victim,) = (each for each in self.stack.workers if f'"{worker_id}"' in each.command.log.read_text())
        victim.kill()

    async def strike(self, victim: str, pid: int, session: Session) -> None:
        """Kills the party that a case is about while the process `pid` stands at a point."""
        stack = self.stack
        if victim == "redis":
            stack.redis.kill()
        elif victim == "worker":
            workers = [process for process in stack.workers if process.pid == pid]
            if workers:
                workers[0].kill()
            else:
                await self.kill_worker_of(session.id)
        else:
            gateways = [process for process in stack.gateways if process.pid == pid]
            (gateways or [process for process in stack.gateways if process.pid])[0].kill()

    async def claims(self) -> dict[str, str]:
        """Reservations and waiters that the ledger holds, without its sums."""
        keys = PoolKeys(self.stack.pool.pool)
        async with redis.asyncio.Redis.from_url(self.stack.redis_url, decode_responses=True) as client:
            held = {**await client.hgetall(keys.reservations), **await client.hgetall(keys.waiters)}
        return {name: value for name, value in held.items() if not name.startswith("=")}


@contextlib.asynccontextmanager
async def fault_stack(folder: Path, source: str = "", policy: str = "Migrate") -> AsyncIterator[FaultStack]:
    """Runs the pool; its processes pass fault points armed by files in a folder of their own.

    Its workers guess output and round weights and KV: none of it may make a difference to what a death leaves. Run
    again in the same folder it has the same sessions; `source` is another model, `policy` what becomes of them.
    """
    faults = folder / "faults"
    faults.mkdir(exist_ok=True)
    role = {"name": "agent", "priority": 10, "maxOutputTokensPerStep": 64, "speculation": "PromptLookup"}
    pool = tiny_pool("faults", [role], replicas=2, context=512, memory="4Mi", batch=128, dtype="float64")
    pool["spec"]["models"][0]["quantization"] = "int8"
    pool["spec"]["models"][0]["kvCache"]["dtype"] = "int8"
    pool["spec"]["sessions"] = {"onModelChange": policy}
    if source:
        pool["spec"]["models"][0]["source"] = source
    options = StackOptions(
        state_dir=folder / "state",
        port=0,
        ray=False,
        cache_dir=folder / "cache",
        environment={DIRECTORY_VARIABLE: str(faults), "OMP_NUM_THREADS": "1"},
    )
    patience = processes.LONGEST_DELAY_SECONDS
    processes.LONGEST_DELAY_SECONDS = 0.2  # killing often is the point here, not a fault to back off from
    try:
        with forked_processes():
            async with LocalStack(AgentPool.model_validate(pool), options) as stack:
                yield FaultStack(stack, faults)
    finally:
        processes.LONGEST_DELAY_SECONDS = patience


async def watch(
    session: Session,
    text: str,
    step_id: str,
    sampling: Sampling = LONG,
    output: Format | None = None,
    deltas: Deltas = Deltas.EACH,
) -> Seen:
    """Takes a step and notes what comes, event by event."""
    seen = Seen()
    step = session.step(text, step_id=step_id, sampling=sampling, format=output, deltas=deltas)
    async for event in step:
        if isinstance(event, Delta):
            assert event.token_offset == len(seen.token_ids), "token ids came twice, or some are missing"
            assert event.text_offset == len(seen.text.encode()), "text came twice, or some is missing"
            assert event.part_offset == seen.parts.size, "parts came twice, or some are missing"
            seen.parts.extend(event.parts)
            seen.token_ids.extend(event.token_ids)
            seen.text += event.text
        elif isinstance(event, Restarted):
            seen = Seen(restarts=seen.restarts + 1, migrations=seen.migrations)
        elif isinstance(event, Migrated):
            seen.migrations.append(event)
        elif isinstance(event, Committed):
            message = parts_of_message(event.output.content, event.reasoning, event.output.tool_calls)
            assert seen.parts.after(0) == message, "the parts are not the message"
            seen.result = StepResult(event, seen.text, tuple(seen.token_ids))
    assert seen.result is not None
    return seen


async def log_of(session: Session, generation: int = 0) -> list[LoggedStep]:
    """The committed log; its hashes are checked link by link."""
    steps = [step async for step in session.steps(include_token_ids=True, generation=generation)]
    log_hash, length = b"", 0
    for step in steps:
        packed = pack_ids([*step.prompt_token_ids, *step.output_token_ids])
        log_hash, length = extend(log_hash, packed), length + len(packed) // 4
        assert (step.head.length, step.head.log_hash) == (length, log_hash), "the log's hash does not follow"
    return steps


def constant(text: str) -> Format:
    """A format whose output is `text` as a JSON value, byte by byte, whatever the model."""
    return JsonSchema({"const": text})


@contextlib.asynccontextmanager
async def client_process(
    client_targets: tuple[str, ...], session: str, step_id: str
) -> AsyncIterator[Callable[[], None]]:
    """A client in a process of its own, taking one step; yields how to SIGKILL it."""
    arguments = (client_targets, session, step_id, QUESTION, LONG)
    process = await ForkedProcess.start(GATEWAYS.start(), "fault_client:take_step", *arguments)
    try:
        yield lambda: process.send_signal(signal.SIGKILL)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


async def begin(client: Client) -> Session:
    """A session with one committed step."""
    session = await client.open(role="agent", system=SYSTEM)
    await session.run(OPENING, sampling=SHORT)
    return session
