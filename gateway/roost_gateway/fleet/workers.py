"""The workers of each pool that live, as far as this gateway knows, and what they have cached of sessions."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from roost.store.interface import SessionStore
from roost.store.records import StoreAwayError
from roost.store.residency import Residency
from roost.store.wake import Wake
from roost.store.worker_views import WorkerView
from roost_gateway.fleet.broken_workers import BrokenWorkers, WorkerStart
from roost_gateway.fleet.grace import WAIT_SECONDS, WorkerGrace
from roost_gateway.routing import gate
from roost_gateway.routing.backlog import Backlogs
from roost_gateway.routing.choice import Choice, StepNeed, WorkerState
from roost_gateway.routing.worker_index import WorkerIndex

_LOOK_SECONDS = 0.1


class Workers:
    """Live workers by pool. What was read stays known while the store is away."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self.grace = WorkerGrace(store)
        self._indexes: defaultdict[str, WorkerIndex] = defaultdict(WorkerIndex)
        self._backlogs = Backlogs()
        self._broken = BrokenWorkers()
        self._refreshing: dict[str, asyncio.Task[None]] = {}

    async def aclose(self) -> None:
        for task in self._refreshing.values():
            task.cancel()
        await asyncio.gather(*self._refreshing.values(), return_exceptions=True)

    @property
    def addresses(self) -> set[str]:
        """Addresses of all workers, including broken ones."""
        return {worker.address for index in self._indexes.values() for worker in index.states.values()}

    def any_takes_steps(self, pools: Iterable[str]) -> bool:
        """Whether any worker of these pools does."""
        return any(not worker.lease.draining for pool in pools for worker in self._indexes[pool].states.values())

    def states(self, pool: str) -> list[WorkerState]:
        """The pool's live workers, except those marked broken."""
        broken = self._broken.all()
        return [worker for worker in self._indexes[pool].states.values() if worker.start not in broken]

    def get(self, pool: str, worker_id: str) -> WorkerState | None:
        """The live worker, or None if it is unknown or marked broken."""
        worker = self.listed(pool, worker_id)
        return None if worker is None or worker.start in self._broken.all() else worker

    def listed(self, pool: str, worker_id: str) -> WorkerState | None:
        """The worker that has a lease, or None. One that is marked broken may still have what it has begun: only what
        is asked of it tells."""
        return self._indexes[pool].states.get(worker_id)

    def bytes_per_token(self, pool: str) -> float:
        """As measured by one of the pool's workers, since all serve much the same text; 0 without workers."""
        worker = next(iter(self._indexes[pool].states.values()), None)
        return worker.lease.bytes_per_token if worker is not None else 0.0

    def max_bytes_per_token(self, pool: str, revision: str) -> int:
        """The most bytes of text that a token stands for at the pool's workers of a revision (empty: at any worker);
        0 when that is not known. It takes time in proportion to the number of workers."""
        workers = self._indexes[pool].states.values()
        sizes = [w.lease.max_bytes_per_token for w in workers if not revision or w.model_revision == revision]
        return max(sizes, default=0) if all(sizes) else 0

    def choose(
        self, pool: str, need: StepNeed, excluded: AbstractSet[str], gate_seconds: float | None = None
    ) -> Choice | None:
        """The best of the pool's workers for a step, or None when no worker may serve it. `gate_seconds` is how long a
        step has waited that has to pass the gate.

        A worker that is marked broken is chosen only when no other may serve the step, and when it is known to live.
        """
        index = self._indexes[pool]

        def best(avoided: AbstractSet[WorkerStart]) -> Choice | None:
            names = {start[0] for start in avoided if (it := index.states.get(start[0])) and it.start == start}
            if gate_seconds is None:
                return index.choose(need, excluded | names)
            return gate.choose(index, need, excluded | names, gate_seconds)

        broken = self._broken.all()
        choice = best(broken)
        return best(self._broken.silent()) if choice is None and broken else choice

    def any_living(self, pool: str, need: StepNeed, excluded: AbstractSet[str]) -> bool:
        """Whether any of the pool's workers may serve a step, even one marked broken, which may live all the same."""
        return self._indexes[pool].choose(need, excluded) is not None

    async def find(self, pool: str, worker_id: str) -> WorkerState | None:
        """The worker that has a lease, even if it is marked broken, or None. An unknown worker is looked up in the
        store, and waited for when the store has just come back: no longer than workers take to publish themselves once
        the pool can be read, since a later call that fails makes the grace period begin again."""
        if self.listed(pool, worker_id) is None:
            await self.refresh(pool)
        give_up = math.inf
        while self.grace.is_on(pool) and not self.has_published(pool, worker_id) and time.monotonic() < give_up:
            await asyncio.sleep(_LOOK_SECONDS)
            if await self.refresh(pool):
                give_up = min(give_up, time.monotonic() + WAIT_SECONDS)
        return self.listed(pool, worker_id)

    def has_published(self, pool: str, worker_id: str = "") -> bool:
        """Whether the worker, or without a name any worker of the pool, has a lease, even if it is marked broken."""
        published = self._indexes[pool].states
        return worker_id in published if worker_id else bool(published)

    def is_draining(self, pool: str, worker_id: str) -> bool:
        """Whether the worker drained, or was about to, when it was last read, even if it is marked broken."""
        worker = self.listed(pool, worker_id)
        return worker is not None and worker.lease.stops

    def mark_broken(self, worker: WorkerState) -> None:
        """Avoids this start of a worker until its lease would have ended; another start of it is another worker. Where
        no other may serve a step, it is avoided only until it renews its lease, which shows that it lives."""
        self._broken.mark(worker.start)

    def note_reserved(self, pool: str, worker_id: str, tokens: int, live_tokens: int, missing_tokens: int) -> None:
        """Counts a reservation made since the last reading, what a session that is live since then needs, and the
        tokens of the step's log that the worker has to compute, so that a burst does not all choose one worker."""
        index = self._indexes[pool]
        worker = index.states.get(worker_id)
        if worker is not None:
            now = time.monotonic()
            self._backlogs.add(worker, missing_tokens, now)
            reserved, attempts = worker.reserved_tokens + tokens, worker.reserved_attempts + 1
            live, backlog = worker.live_tokens + live_tokens, self._backlogs.seconds(worker, now)
            placed = replace(worker, reserved_tokens=reserved, reserved_attempts=attempts, live_tokens=live)
            index.put(replace(placed, backlog_seconds=backlog))

    def note_released(self, pool: str, wake: Wake) -> WorkerState | None:
        """Takes what is reserved now at the worker where something was released. Returns that worker, or None."""
        index = self._indexes[pool]
        worker = index.states.get(wake.worker_id)
        if worker is not None and wake.live_tokens is not None:
            worker = replace(worker, live_tokens=wake.live_tokens)
            index.put(worker)
        if worker is None or wake.reserved_tokens is None or wake.reserved_attempts is None:
            return worker
        worker = replace(worker, reserved_tokens=wake.reserved_tokens, reserved_attempts=wake.reserved_attempts)
        index.put(worker)
        return worker

    async def look(self, pool: str, worker_id: str, session_id: str) -> Residency:
        """Reads one worker now. Returns what it has cached of the session. Raises StoreAwayError."""
        look = await self._store.look(pool, worker_id, session_id)
        if look.view is not None:
            self._indexes[pool].put(self._state(look.view))
        elif not self.grace.is_on(pool):
            self._indexes[pool].discard(worker_id)
        return Residency(worker_id, look.cached_tokens, look.warm_tokens)

    async def residency(self, pool: str, session_ids: Sequence[str]) -> dict[str, Residency]:
        """What a live worker has cached of each session that any has. Raises StoreAwayError."""
        workers = [worker.worker_id for worker in self.states(pool)]
        return await self._store.residency(pool, workers, session_ids)

    async def refresh(self, pool: str) -> bool:
        """Reads a pool's workers now; calls at the same time share one reading. Returns whether the store answers;
        while it is away nothing changes."""
        task = self._refreshing.get(pool)
        if task is None:
            task = self._refreshing[pool] = asyncio.create_task(self.read(pool))
            task.add_done_callback(lambda task: self._refreshed(pool, task))
        try:
            await asyncio.shield(task)
        except StoreAwayError:
            return False
        return True

    def _refreshed(self, pool: str, task: "asyncio.Task[None]") -> None:
        del self._refreshing[pool]
        if not task.cancelled():
            task.exception()  # retrieved, since every caller that waited for it may have been cancelled

    async def read(self, pool: str) -> None:
        """Reads a pool's workers now. Raises StoreAwayError."""
        views = await self._store.workers(pool)
        workers = {view.lease.worker_id: self._state(view) for view in views}
        if self.grace.is_on(pool):
            workers = {**self._indexes[pool].states, **workers}
        self._indexes[pool].replace(workers.values())

    def _state(self, view: WorkerView) -> WorkerState:
        worker = WorkerState.of(view)
        self._broken.heard(worker.start, view.ms_left)
        return replace(worker, backlog_seconds=self._backlogs.seconds(worker, time.monotonic()))

    def forget(self, pools: Iterable[str]) -> None:
        """Forgets the workers of pools that are gone."""
        for pool in pools:
            self._indexes.pop(pool, None)
