"""The admission of a gateway over a ledger in memory: of this tree, or of an older commit beside it in one process."""

import asyncio
import importlib
import json
import random
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from roost.contract.heads import Head
from roost.contract.lease import WorkerLease
from roost.store.entry import Reserved
from roost.store.store_health import StoreHealth
from roost.store.wake import Wake
from roost_gateway.admission.admission_queue import AdmissionQueue
from roost_gateway.admission.waiting_line import Ahead
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.step.placement import Placement
from step_attempts import attempt_of, descriptor_of, with_need

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

    def __init__(self, records: Any, workers: int, *, tells_what: bool) -> None:
        """`tells_what`: whether messages say what was released, as those of today."""
        self._records, self._tells_what = records, tells_what
        self._leases = {name: _lease(name) for name in (f"w{number:04}" for number in range(workers))}
        self.held = Counter[str](dict.fromkeys(self._leases, RUNNING))
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.calls: Counter[str] = Counter()

    def grace_seconds(self, pool: str) -> float:
        return 0.0

    async def reserve(self, reservation: Any) -> Reserved:
        self.calls["reserve"] += 1
        if self.held[reservation.worker_id] >= RUNNING:
            return Reserved(granted=False)
        self.held[reservation.worker_id] += 1
        return Reserved(granted=True)

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
        held = self.held[name]
        self.messages.put_nowait(Wake(name, held * STEP_TOKENS, held) if self._tells_what else None)

    @property
    def names(self) -> Sequence[str]:
        return list(self._leases)

    async def pools(self) -> list[str]:
        return [POOL]

    async def pool_document(self, pool: str) -> dict[str, Any]:
        roles = [{"name": f"class-{2 - priority}", "priority": priority} for priority in range(3)]
        document = {"model": {"name": "m"}, "activeRevision": REVISION, "roles": roles}
        document["admission"] = {"queueLimit": 10**6}
        return json.loads(json.dumps(document))  # type: ignore[no-any-return]  # an object

    async def health(self) -> Any:
        return getattr(self._records, "StoreHealth", StoreHealth)(True, (), "run", uptime_seconds=10**6)


def _lease(name: str) -> WorkerLease:
    return WorkerLease(
        worker_id=name,
        boot="b",
        address="127.0.0.1:1",
        model="m",
        model_revision=REVISION,
        capacity_tokens=RUNNING * STEP_TOKENS,
        max_running=2 * RUNNING,
        prefill_rate=1e6,  # so that no step would rather wait at home, where none ends, than go where one has
        decode_rate=30.0,
    )


class _Now:
    """The admission of this tree."""

    none_ahead = Ahead(0, 0)

    def __init__(self, ledger: Any) -> None:
        self.fleet = Fleet(ledger, [POOL], {})
        self.placement: Any = Placement(ledger, self.fleet)
        self.queue_class: Any = AdmissionQueue
        self._served: Counter[str] = Counter()

    async def read(self) -> None:
        await self.fleet.read(0)

    @property
    def evaluations(self) -> int:
        return self.fleet.workers._indexes[POOL].evaluations

    @property
    def pool_queue(self) -> Any:
        return self.placement._queues[POOL]

    @property
    def queue(self) -> Any:
        return self.placement._pool_queue(POOL).queue

    async def place(self, session_id: str, tenant: str, priority: int, log_tokens: int, owner: str) -> None:
        pool = self.fleet.pools.known(POOL)
        assert pool is not None
        session = descriptor_of(session_id, head=Head(log_tokens), model_revision=REVISION, owner=owner)
        attempt = attempt_of(
            pool, session, cached_tokens=log_tokens, tenant=tenant, role=pool.role(f"class-{priority}")
        )
        with_need(attempt, new_tokens=100)
        self.queue.step_came(tenant, self._served[tenant])
        attempt.output.accept(array("I"))  # an attempt that a worker has begun waits until its deadline
        await self.placement.place(attempt)
        self._served[tenant] += STEP_TOKENS
        self.queue.learn(tenant, self._served[tenant])

    def close(self) -> None:
        """Nothing was changed for the measurement."""


class _Before:
    """The admission of an older commit, whose modules lie in one folder."""

    none_ahead = 0

    def __init__(self, package: str, ledger: Any) -> None:
        def module(name: str) -> Any:
            return importlib.import_module(f"{package}.{name}")

        self._attempts, self._routing, self._records = module("attempts"), module("routing"), module("store.records")
        self._ask = module("placement").Ask
        self._workers = module("workers").Workers(ledger, [POOL])
        self.placement = module("placement").Placement(ledger, self._workers)
        self.queue_class = module("admission").AdmissionQueue
        self.evaluations = 0
        weigh = self._routing._weigh

        def counted(need: Any, worker: Any) -> Any:
            self.evaluations += 1
            return weigh(need, worker)

        self._routing._weigh = counted
        self.close: Callable[[], None] = lambda: setattr(self._routing, "_weigh", weigh)

    async def read(self) -> None:
        await self._workers._tick(0)

    @property
    def pool_queue(self) -> Any:
        (line,) = self.placement._lines.values()
        return SimpleNamespace(lines={"": line}, listener=line.listener)

    @property
    def queue(self) -> Any:
        return self.placement.queue(POOL)

    async def place(self, session_id: str, tenant: str, priority: int, log_tokens: int, owner: str) -> None:
        need = self._routing.StepNeed(session_id, REVISION, log_tokens, 100, {owner: log_tokens})
        ref = self._records.AttemptRef(1, b"n" * 16)
        held = self._attempts.HeldAttempt(POOL, session_id, ref, asyncio.current_task())
        deadline = asyncio.get_running_loop().time() + FAR_SECONDS
        ask = self._ask(self._workers.view(POOL), held, need, tenant, priority, True, deadline)
        ask.started = True  # waits until its deadline
        await self.placement.place(ask, lambda _: None)
        self.queue.started(tenant)


class World:
    """A full pool, and steps that wait for it in one gateway."""

    def __init__(self, package: str, workers: int, seed: int) -> None:
        now = package == "roost_gateway"
        records = importlib.import_module("roost.store.worker_views" if now else f"{package}.store.records")
        self._chance = random.Random(seed)
        self.ledger = Ledger(records, workers, tells_what=now)
        self._side: Any = _Now(self.ledger) if now else _Before(package, self.ledger)
        self._placement = self._side.placement
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asked = 0
        self.admitted = 0

    @property
    def evaluations(self) -> int:
        """Workers weighed, and nodes of trees of workers looked at."""
        return int(self._side.evaluations)

    @property
    def waiting(self) -> int:
        return len(self._side.queue)

    async def start(self, waiters: int) -> None:
        await self._side.read()
        await self.fill(waiters)
        self._placement.kick(POOL)
        await self._until(lambda: not self._pumping())
        assert self._side.pool_queue.listener is not None, "somebody waits, so the gateway listens"

    async def fill(self, waiters: int) -> None:
        """Adds steps until so many wait. Not measured: nothing is admitted, and places in the queue are not counted."""
        queue_class = self._side.queue_class
        ahead, queue_class.ahead = queue_class.ahead, lambda *_: self._side.none_ahead
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
            queue_class.ahead, self._placement.kick = ahead, kick
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
        self._side.close()

    async def _place(self) -> None:
        self._asked += 1
        session_id, tenant, priority = f"{POOL}/{self._asked:026}", f"tenant-{self._asked % 10}", self._asked % 3
        await self._side.place(
            session_id, tenant, priority, self._chance.randrange(100, 700), self._chance.choice(self.ledger.names)
        )
        self.admitted += 1

    def _pumping(self) -> bool:
        lines = self._side.pool_queue.lines.values() if self._asked else ()
        return any(line.pump is not None for line in lines) or not self.ledger.messages.empty()

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Lets everything else go on until the condition holds."""
        await asyncio.sleep(0)
        while not condition():  # noqa: ASYNC110  turns of the loop, without time
            await asyncio.sleep(0)
