"""The admission of a gateway over a ledger in memory: of this tree, or of an older commit beside it in one process."""

import asyncio
import importlib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from roost.contract.lease import WorkerLease

ROOT = Path(__file__).parents[2]
POOL = "bench/pool"
REVISION = "rev-1"
RUNNING = 4
"""Steps that fill a worker."""
STEP_TOKENS = 1000
FAR_SECONDS = 1e6


def load_older(commit: str, folder: Path) -> str:
    """Write the gateway as it was at `commit` into `folder`, as a package of another name, and return that name.

    The contract of that commit goes with it, since the gateway needs its names; generated code is that of this tree.
    """
    name, contract = f"roost_gateway_at_{commit}", f"roost_contract_at_{commit}"
    sources = {"gateway/roost_gateway": name, "proto/roost/contract": contract}
    archive = subprocess.run(["git", "archive", commit, *sources], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    for source, package in sources.items():
        (folder / source).rename(folder / package)
        for path in (folder / package).rglob("*.py"):
            path.write_text(path.read_text().replace("roost_gateway", name).replace("roost.contract", contract))
    sys.path.insert(0, str(folder))
    return name


class Ledger:
    """What admission needs of a store, in memory and without waiting. It is the same for both sides; what a call costs
    in Redis is not in the figures."""

    def __init__(self, records: Any, workers: int) -> None:
        self._records = records
        self._leases = {name: _lease(name) for name in (f"w{number:04}" for number in range(workers))}
        self.held = Counter[str](dict.fromkeys(self._leases, RUNNING))
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.calls: Counter[str] = Counter()

    async def reserve(self, reservation: Any) -> bool:
        self.calls["reserve"] += 1
        if self.held[reservation.worker_id] >= RUNNING:
            return False
        self.held[reservation.worker_id] += 1
        return True

    async def release(self, reservation: Any) -> None:
        self.calls["release"] += 1

    async def workers(self, pool: str) -> list[Any]:
        self.calls["workers"] += 1
        return [self._view(name) for name in self._leases]

    async def look(self, pool: str, worker_id: str, session_id: str) -> Any:
        self.calls["look"] += 1
        return self._records.WorkerLook(self._view(worker_id), STEP_TOKENS // 2)

    def _view(self, name: str) -> Any:
        held = self.held[name]
        return self._records.WorkerView(self._leases[name], 5000, held * STEP_TOKENS, held)

    async def wakes(self, pool: str) -> AsyncIterator[Any]:
        while True:
            yield await self.messages.get()

    def end_a_step(self, name: str) -> None:
        """One of the worker's steps ends, and every gateway hears of it."""
        self.held[name] -= 1
        wake = getattr(self._records, "Wake", None)
        held = self.held[name]
        self.messages.put_nowait(wake(name, held * STEP_TOKENS, held) if wake else None)

    @property
    def names(self) -> Sequence[str]:
        return list(self._leases)

    async def pools(self) -> list[str]:
        return [POOL]

    async def pool_document(self, pool: str) -> dict[str, Any]:
        document = {"model": {"name": "m"}, "activeRevision": REVISION, "admission": {"queueLimit": 10**6}}
        return json.loads(json.dumps(document))  # type: ignore[no-any-return]  # an object

    async def health(self) -> Any:
        return self._records.StoreHealth(True, (), "run", uptime_seconds=10**6)


def _lease(name: str) -> WorkerLease:
    return WorkerLease(
        worker_id=name,
        boot="b",
        address="127.0.0.1:1",
        model="m",
        model_revision=REVISION,
        capacity_tokens=RUNNING * STEP_TOKENS,
        max_running=2 * RUNNING,
        prefill_rate=2000.0,
        decode_rate=30.0,
    )


class World:
    """A full pool, and steps that wait for it in one gateway."""

    def __init__(self, package: str, workers: int, seed: int) -> None:
        def module(name: str) -> Any:
            return importlib.import_module(f"{package}.{name}")

        self._attempts, self._routing = module("attempts"), module("routing")
        self._records = module("store.records")
        placement = module("placement")
        self._ask = placement.Ask if hasattr(placement, "Ask") else module("lines").Ask
        self._chance = random.Random(seed)
        self.ledger = Ledger(self._records, workers)
        self._workers = module("workers").Workers(self.ledger, [POOL])
        self._placement = placement.Placement(self.ledger, self._workers)
        self._admission = module("admission").AdmissionQueue
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asked = 0
        self.admitted = 0
        self._weighed = 0
        weigh = self._routing._weigh

        def counted(need: Any, worker: Any) -> Any:
            self._weighed += 1
            return weigh(need, worker)

        self._routing._weigh = counted
        self._restore: Callable[[], None] = lambda: setattr(self._routing, "_weigh", weigh)

    @property
    def evaluations(self) -> int:
        """Workers weighed, and nodes of trees of workers looked at."""
        fleets = getattr(self._workers, "_fleets", {})
        return fleets[POOL].evaluations if fleets else self._weighed

    @property
    def waiting(self) -> int:
        return len(self._placement.queue(POOL))

    async def start(self, waiters: int) -> None:
        await self._workers._tick(0)
        await self.fill(waiters)
        self._placement.kick(POOL)
        await self._until(lambda: not self._pumping())
        self._assert_listening()

    async def fill(self, waiters: int) -> None:
        """Adds steps until so many wait. Not measured: nothing is admitted, and places in the queue are not counted."""
        ahead, self._admission.ahead = self._admission.ahead, lambda *_: 0
        self._placement.kick, kick = lambda *_: None, self._placement.kick
        kick_line = getattr(self._placement, "_kick_line", None)
        if kick_line is not None:
            self._placement._kick_line = lambda *_: None
        try:
            for _ in range(waiters - self.waiting):
                task = asyncio.create_task(self._place())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await self._until(lambda: self.waiting >= waiters and not self._pumping())
        finally:
            self._admission.ahead, self._placement.kick = ahead, kick
            if kick_line is not None:
                self._placement._kick_line = kick_line

    async def admit_one(self) -> None:
        """A step ends somewhere, and one that waits takes its room."""
        before = self.admitted
        self.ledger.end_a_step(self._chance.choice(self.ledger.names))
        await self._until(lambda: self.admitted > before and not self._pumping())

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._placement.aclose()
        self._restore()

    async def _place(self) -> None:
        self._asked += 1
        session_id = f"{POOL}/{self._asked:026}"
        log_tokens = self._chance.randrange(100, 700)
        owner = self._chance.choice(self.ledger.names)
        need = self._routing.StepNeed(session_id, REVISION, log_tokens, 100, {owner: log_tokens})
        task = asyncio.current_task()
        held = self._attempts.HeldAttempt(POOL, session_id, self._records.AttemptRef(1, b"n" * 16), task)
        tenant = f"tenant-{self._asked % 10}"
        deadline = asyncio.get_running_loop().time() + FAR_SECONDS
        pool = self._workers.view(POOL)
        ask = self._ask(pool, held, need, tenant, self._asked % 3, True, deadline)
        ask.started = True  # waits until its deadline
        queue = self._placement.queue(POOL)
        await self._placement.place(ask, lambda _: None)
        self.admitted += 1
        queue.started(tenant)

    def _lines(self) -> list[Any]:
        pools = getattr(self._placement, "_pools", None)
        return list(pools[POOL].lines.values()) if pools is not None else list(self._placement._lines.values())

    def _pumping(self) -> bool:
        return any(line.pump is not None for line in self._lines()) or not self.ledger.messages.empty()

    def _assert_listening(self) -> None:
        pools = getattr(self._placement, "_pools", None)
        owner = pools[POOL] if pools is not None else self._lines()[0]
        assert owner.listener is not None, "somebody waits, so the gateway listens"

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Lets everything else go on until the condition holds."""
        await asyncio.sleep(0)
        while not condition():  # noqa: ASYNC110  turns of the loop, without time
            await asyncio.sleep(0)
