"""What a gateway knows of pools and workers: read from the store twice a second, kept while the store is away."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.interface import SessionStore
from roost.store.records import StoreHealth, StoreUnavailableError, Wake, WorkerView
from roost_gateway.routing.choice import Choice, StepNeed, WorkerState
from roost_gateway.routing.worker_index import WorkerIndex

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
_DOCUMENT_TICKS = 4
GRACE_SECONDS = LEASE_TTL_SECONDS
"""After the store came back nobody's lease counts as expired, since nobody could renew it; and a worker that is looked
for is waited for, since it may not have published itself again."""
_LOOK_SECONDS = 0.1


def worker_state(view: WorkerView) -> WorkerState:
    """What routing needs of a published worker."""
    lease = view.lease
    return WorkerState(
        worker_id=lease.worker_id,
        boot=lease.boot,
        address=lease.address,
        model_revision=lease.model_revision,
        capacity_tokens=lease.capacity_tokens,
        max_running=lease.max_running,
        reserved_tokens=view.reserved_tokens,
        reserved_attempts=view.reserved_attempts,
        waiting=lease.waiting,
        prefill_rate=lease.prefill_rate,
        decode_rate=lease.decode_rate,
        bytes_per_token=lease.bytes_per_token,
        draining=lease.draining,
    )


class Workers:
    """Pools, their documents and their live workers."""

    def __init__(self, store: SessionStore, pools: Sequence[str]) -> None:
        self._store = store
        self._configured = tuple(pools)
        self.on_change: Callable[[str], None] = lambda pool: None
        """Told of each pool whose workers were read anew."""
        self._documents: dict[str, PoolDocument] = {}
        self._fleets: defaultdict[str, WorkerIndex] = defaultdict(WorkerIndex)
        self._broken: dict[tuple[str, str], float] = {}
        self._refreshing: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._grace_until = 0.0
        self.store_answers = False
        self.health: StoreHealth | None = None

    async def start(self) -> None:
        """Reads everything once, then again and again."""
        await self._tick(0)
        self._loop = asyncio.create_task(self._watch(), name="watch workers")

    async def aclose(self) -> None:
        tasks = [*self._refreshing.values(), *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def grace(self) -> bool:
        """Whether the store has just come back."""
        return self.grace_seconds > 0

    @property
    def grace_seconds(self) -> float:
        """How long that still counts."""
        return max(0.0, self._grace_until - time.monotonic())

    @property
    def pools(self) -> list[str]:
        return list(self._documents)

    @property
    def addresses(self) -> set[str]:
        """Addresses of all workers, broken or not."""
        return {state.address for fleet in self._fleets.values() for state in fleet.states.values()}

    @property
    def ready(self) -> bool:
        """Whether the store answers and some worker takes steps."""
        return self.store_answers and any(
            not state.draining for fleet in self._fleets.values() for state in fleet.states.values()
        )

    async def pool(self, name: str) -> PoolDocument:
        """The pool's document. Raises Refused: POOL_NOT_FOUND."""
        found = self._documents.get(name)
        if found is None and (not self._configured or name in self._configured):
            await self._read_document(name)
            found = self._documents.get(name)
        if found is None:
            raise Refused(Reason.POOL_NOT_FOUND, f"there is no pool {name!r} here; name one as namespace/name")
        return found

    def view(self, name: str) -> PoolDocument | None:
        """The pool's document as it was last read."""
        return self._documents.get(name)

    async def reread(self, name: str) -> PoolDocument:
        """The pool's document, read now. Raises Refused: POOL_NOT_FOUND; StoreUnavailableError."""
        await self._read_document(name)
        return await self.pool(name)

    def states(self, pool: str) -> list[WorkerState]:
        """Workers of a pool that live, as far as is known, without those found broken a moment ago."""
        broken = self._broken_now()
        return [state for state in self._fleets[pool].states.values() if (state.worker_id, state.boot) not in broken]

    def get(self, pool: str, worker_id: str) -> WorkerState | None:
        """A worker that lives, as far as is known."""
        state = self._fleets[pool].states.get(worker_id)
        return None if state is None or (state.worker_id, state.boot) in self._broken_now() else state

    def any(self, pool: str) -> WorkerState | None:
        """Some worker of the pool, if there is one, for figures that are much the same at all of them."""
        return next(iter(self._fleets[pool].states.values()), None)

    def choose(self, pool: str, need: StepNeed, excluded: AbstractSet[str]) -> Choice | None:
        """The best of the pool's workers for a step, as `routing.choose` says."""
        fleet = self._fleets[pool]
        broken = {name for name, boot in self._broken_now() if name in fleet.states and fleet.states[name].boot == boot}
        return fleet.choose(need, excluded | broken)

    def _broken_now(self) -> AbstractSet[tuple[str, str]]:
        """Starts of workers found broken a moment ago."""
        if self._broken:
            now = time.monotonic()
            self._broken = {start: until for start, until in self._broken.items() if until > now}
        return self._broken.keys()

    async def find(self, pool: str, worker_id: str) -> WorkerState | None:
        """A worker that lives, if need be by what the store says now."""
        found = self.get(pool, worker_id)
        if found is None:
            await self.refresh(pool)
        while self.grace and not self.has_published(pool, worker_id):
            await asyncio.sleep(_LOOK_SECONDS)
            await self.refresh(pool)
        return found or self.get(pool, worker_id)

    def has_published(self, pool: str, worker_id: str = "") -> bool:
        """Whether a worker, or any, has a lease, be it found broken or not."""
        published = self._fleets[pool].states
        return worker_id in published if worker_id else bool(published)

    def mark_broken(self, worker: WorkerState) -> None:
        """Avoids this start of a worker until its lease would have ended; another start of it is another worker."""
        self._broken[worker.worker_id, worker.boot] = time.monotonic() + LEASE_TTL_SECONDS

    def note_reserved(self, pool: str, worker_id: str, tokens: int) -> None:
        """Counts a reservation made since the last reading, so that a burst does not all choose one worker."""
        fleet = self._fleets[pool]
        state = fleet.states.get(worker_id)
        if state is not None:
            reserved, attempts = state.reserved_tokens + tokens, state.reserved_attempts + 1
            fleet.put(replace(state, reserved_tokens=reserved, reserved_attempts=attempts))

    def note_released(self, pool: str, wake: Wake) -> WorkerState | None:
        """The worker at which something was released, with what it holds now; None for one that is not known."""
        fleet = self._fleets[pool]
        state = fleet.states.get(wake.worker_id)
        if state is None or wake.reserved_tokens is None or wake.reserved_attempts is None:
            return state
        state = replace(state, reserved_tokens=wake.reserved_tokens, reserved_attempts=wake.reserved_attempts)
        fleet.put(state)
        return state

    async def look(self, pool: str, worker_id: str, session_id: str) -> int:
        """Reads one worker now. Returns what it has cached of the session, in tokens."""
        look = await self._store.look(pool, worker_id, session_id)
        if look.view is not None:
            self._fleets[pool].put(worker_state(look.view))
        elif not self.grace:
            self._fleets[pool].discard(worker_id)
        return look.cached_tokens

    async def refresh(self, pool: str) -> None:
        """Reads a pool's workers now; calls at the same time share one reading. The store being away is no error."""
        task = self._refreshing.get(pool)
        if task is None:
            task = self._refreshing[pool] = asyncio.create_task(self._read_workers(pool))
            task.add_done_callback(lambda task: self._refreshed(pool, task))
        try:
            await asyncio.shield(task)
        except StoreUnavailableError:
            self._store_left()

    def _refreshed(self, pool: str, task: "asyncio.Task[None]") -> None:
        del self._refreshing[pool]
        if not task.cancelled():
            task.exception()  # told to those who wait; they may all have gone

    async def _watch(self) -> None:
        tick = 0
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            tick += 1
            try:
                await self._tick(tick)
            except Exception:
                log.exception("reading pools and workers failed; trying again")

    async def _tick(self, tick: int) -> None:
        try:
            if not self.store_answers or tick % _DOCUMENT_TICKS == 0:
                await self._read_documents()
            await asyncio.gather(*(self._read_workers(pool) for pool in self._documents))
            await self._store_came()
        except StoreUnavailableError:
            self._store_left()
        for pool in self._documents:
            self.on_change(pool)

    def _store_left(self) -> None:
        if self.store_answers:
            log.warning("the session store does not answer; running steps go on")
        self.store_answers = False

    async def _store_came(self) -> None:
        if self.store_answers:
            return
        health = await self._store.health()
        if self.health is not None or health.uptime_seconds < GRACE_SECONDS:
            self._grace_until = time.monotonic() + GRACE_SECONDS
            log.warning("the session store has just started or come back: workers are waited for")
        self.health, self.store_answers = health, True
        for problem in health.problems:
            log.warning("the session store is not safe (WeakDurability): %s", problem)
        for unknown in health.hidden:
            log.warning("the session store is trusted: %s", unknown)

    async def _read_documents(self) -> None:
        names = self._configured or await self._store.pools()
        await asyncio.gather(*(self._read_document(name) for name in names))
        for gone in set(self._documents) - set(names):
            del self._documents[gone]
            self._fleets.pop(gone, None)

    async def _read_document(self, pool: str) -> None:
        document = await self._store.pool_document(pool)
        if document is None:
            self._documents.pop(pool, None)
            return
        try:
            self._documents[pool] = PoolDocument.from_json(pool, document)
        except ValueError as error:
            log.error("%s", error)

    async def _read_workers(self, pool: str) -> None:
        if not self.store_answers and self.health is not None:
            self._grace_until = time.monotonic() + GRACE_SECONDS  # no lease could be renewed: forget nobody yet
        views = await self._store.workers(pool)
        seen = {view.lease.worker_id: worker_state(view) for view in views}
        if self.grace:
            seen = {**self._fleets[pool].states, **seen}
        self._fleets[pool].replace(seen.values())


def require_open(pool: PoolDocument) -> None:
    """Raises Refused: POOL_SUSPENDED."""
    if pool.suspend:
        raise Refused(
            Reason.POOL_SUSPENDED,
            f"pool {pool.pool} is suspended; set suspend to false",
            retry_seconds=30.0,
        )
