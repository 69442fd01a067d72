"""The workers of one pool, indexed so that the best worker for a step is found by looking at few. Pure.

Workers of one revision and one class of prefill rate are the leaves of a tree, in the order of the ring
(`choice.ring_place`). Each node knows the least cost and the most room below it, also at the gate, so a question goes
down from the root to the best leaf and passes over what is full: O(log n) nodes while the least loaded workers are
those that have room.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from heapq import heappop, heappush

from roost_gateway.routing.choice import (
    Choice,
    Room,
    Standing,
    StepNeed,
    WorkerState,
    cheapest,
    compute_ticks,
    eligible,
    other_order,
    rate_class_of,
    rate_of,
    ring_place,
    standing,
)

_NONE = 2**62
"""Cost of a leaf without a worker, or of one without such room."""
_NO_GATE = -1
"""Tokens that pass the gate at every worker."""
_REBUILD_PART = 16
"""When more than one in this many workers has changed, to rebuild the trees costs less than to change them."""


class WorkerIndex:
    """Live workers by id, and the choice among them."""

    def __init__(self, workers: Iterable[WorkerState] = ()) -> None:
        self._states: dict[str, WorkerState] = {}
        self._groups: dict[tuple[str, int], _Group] = {}
        self.evaluations = 0
        """Workers and tree nodes that were looked at since the start."""
        self.replace(workers)

    @property
    def states(self) -> Mapping[str, WorkerState]:
        return self._states

    def replace(self, workers: Iterable[WorkerState]) -> None:
        """Takes a new reading of all workers. O(log n) for each worker whose costs or room changed, and at most
        O(n log n)."""
        fresh = {worker.worker_id: worker for worker in workers}
        changed = [worker for worker in fresh.values() if self._differs(worker)]
        few = len(fresh) == len(self._states) and len(changed) * _REBUILD_PART <= len(fresh)
        if few and all(map(self._stays, changed)):
            for worker in changed:
                self.put(worker)
            self._states = fresh
        else:
            self._rebuild(fresh)

    def put(self, worker: WorkerState) -> None:
        """Takes a new reading of one worker."""
        if not self._stays(worker):
            self._rebuild({**self._states, worker.worker_id: worker})
            return
        self._states[worker.worker_id] = worker
        key = _group_of(worker)
        if key is not None:
            self._groups[key].put(worker.worker_id, standing(worker))

    def discard(self, worker_id: str) -> None:
        """Forgets a worker, if it is known."""
        if worker_id in self._states:
            self._rebuild({name: state for name, state in self._states.items() if name != worker_id})

    def choose(
        self, need: StepNeed, excluded: AbstractSet[str] = frozenset(), gate_tokens: int = _NO_GATE
    ) -> Choice | None:
        """The worker of least cost that serves the step's revision, or None when no worker may serve it. With
        `gate_tokens` only workers count whose gate seems open for so many."""
        names = dict.fromkeys((*need.cached, *need.warm, need.owner, self._best_other(need, excluded, gate_tokens)))
        related = [self._states[name] for name in names if name in self._states]
        able = [worker for worker in related if worker.gate_room >= gate_tokens and eligible(need, worker, excluded)]
        self.evaluations += len(able)
        return cheapest(need, able)

    def fastest_rate(self, revision: str, excluded: AbstractSet[str]) -> float | None:
        """Tokens per second, to its rate class, of the fastest worker of a revision (empty: of any) that takes any
        session; None without workers."""
        classes = [
            rate_class
            for (of_workers, rate_class), group in self._groups.items()
            if revision in ("", of_workers) and group.has_other_than(excluded)
        ]
        return rate_of(max(classes)) if classes else None

    def _best_other(self, need: StepNeed, excluded: AbstractSet[str], gate_tokens: int) -> str:
        """The best of the workers that take any session, without regard to what they have cached; empty for none."""
        revision = need.model_revision
        groups = [
            (group, compute_ticks(need.tokens, rate_class))
            for (of_workers, rate_class), group in self._groups.items()
            if revision in ("", of_workers)
        ]
        for room in Room:
            best: tuple[tuple[int, int], str] | None = None
            for group, computing in groups:
                most = _NONE if best is None else best[0][0] - computing
                name, looked_at = group.best(room, need, excluded, gate_tokens, most)
                self.evaluations += looked_at
                if name is not None:
                    ranked = other_order(need, room, group.standings[name], name), name
                    best = ranked if best is None else min(best, ranked)
            if best is not None:
                return best[1]
        return ""

    def _differs(self, worker: WorkerState) -> bool:
        """Whether costs or room changed; leases hold other figures as well, which change with every renewal."""
        if self._states.get(worker.worker_id) == worker:
            return False
        key = _group_of(worker)
        return not self._stays(worker) or (
            key is not None and self._groups[key].standings[worker.worker_id] != standing(worker)
        )

    def _stays(self, worker: WorkerState) -> bool:
        """Whether the worker, as read now, is a leaf of the same tree as before."""
        before = self._states.get(worker.worker_id)
        return before is not None and _group_of(before) == _group_of(worker)

    def _rebuild(self, states: dict[str, WorkerState]) -> None:
        self._states = states
        members: dict[tuple[str, int], dict[str, Standing]] = defaultdict(dict)
        for worker in states.values():
            key = _group_of(worker)
            if key is not None:
                members[key][worker.worker_id] = standing(worker)
        fastest_first = sorted(members.items(), key=lambda item: item[0][1], reverse=True)
        self._groups = {key: _Group(standings) for key, standings in fastest_first}


def _group_of(worker: WorkerState) -> tuple[str, int] | None:
    """Revision and rate class; None for a worker that takes no new sessions."""
    return None if worker.lease.stops else (worker.model_revision, rate_class_of(worker.lease.prefill_rate))


class _Group:
    """Workers that serve the same steps and compute a prompt equally fast."""

    def __init__(self, standings: dict[str, Standing]) -> None:
        self.standings = standings
        self._names = sorted(standings, key=ring_place)
        self._places = [ring_place(name) for name in self._names]
        self._leaf = {name: number for number, name in enumerate(self._names)}
        self._width = 1
        while self._width < len(self._names):
            self._width *= 2
        self._trees = {room: _Tree(self._width) for room in Room}
        for name, place in standings.items():
            self._set(name, place)
        for tree in self._trees.values():
            tree.build()

    def put(self, name: str, place: Standing) -> None:
        self.standings[name] = place
        self._set(name, place)
        for tree in self._trees.values():
            tree.changed(self._leaf[name])

    def has_other_than(self, excluded: AbstractSet[str]) -> bool:
        return len(self.standings) > len(excluded) or not self.standings.keys() <= excluded

    def best(
        self, room: Room, need: StepNeed, excluded: AbstractSet[str], gate_tokens: int, most: int
    ) -> tuple[str | None, int]:
        """The best worker with such room, whose gate is open for so many tokens and which costs at most so many ticks
        without computing, and how much was looked at."""
        start = bisect_left(self._places, ring_place(need.session_id))
        skip = {self._leaf[name] for name in excluded if name in self._leaf}
        tokens = 0 if room is Room.FULL else need.tokens
        leaf, looked_at = self._trees[room].least(tokens, gate_tokens, most, start % self._width, skip)
        return (None if leaf is None else self._names[leaf]), looked_at

    def _set(self, name: str, place: Standing) -> None:
        leaf = self._leaf[name]
        self._trees[Room.NOW].set(leaf, place.load if place.runs else _NONE, place.fits, place.gate_room)
        self._trees[Room.QUEUE].set(leaf, place.soon if place.queues else _NONE, place.fits, place.gate_room)
        self._trees[Room.FULL].set(leaf, place.soon, 0, place.gate_room)


class _Tree:
    """Costs and room of numbered leaves; each inner node has the least cost and the most room of those below."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._costs = [_NONE] * (2 * width)
        self._fits = [-1] * (2 * width)
        self._gates = [_NO_GATE] * (2 * width)

    def set(self, leaf: int, cost: int, fits: int, gate_room: int) -> None:
        """`build` or `changed` has to follow."""
        self._costs[self._width + leaf] = cost
        self._fits[self._width + leaf] = max(0, fits) if cost < _NONE else -1
        self._gates[self._width + leaf] = gate_room

    def build(self) -> None:
        for node in range(self._width - 1, 0, -1):
            self._sum_up(node)

    def changed(self, leaf: int) -> None:
        node = (self._width + leaf) // 2
        while node and self._sum_up(node):
            node //= 2

    def least(
        self, tokens: int, gate_tokens: int, most: int, start: int, skip: AbstractSet[int]
    ) -> tuple[int | None, int]:
        """The leaf of least cost, at most `most`, in which `tokens` fit and whose gate is open for `gate_tokens`, from
        `start` on and round the ring, and how many nodes were looked at. Nodes are taken by the best that may be below
        them, so the first leaf taken is the answer."""
        costs, fits, gates, width = self._costs, self._fits, self._gates, self._width
        waiting = [(costs[1], 0, 1, 0, width)] if fits[1] >= tokens and gates[1] >= gate_tokens else []
        looked_at = 1
        while waiting and waiting[0][0] <= most:
            _, _, node, low, span = heappop(waiting)
            looked_at += 1
            if span == 1:
                if low not in skip:
                    return low, looked_at
                continue
            half = span // 2
            for child, at in ((2 * node, low), (2 * node + 1, low + half)):
                if fits[child] >= tokens and gates[child] >= gate_tokens:
                    way = 0 if at < start < at + half else (at - start) % width
                    heappush(waiting, (costs[child], way, child, at, half))
        return None, looked_at

    def _sum_up(self, node: int) -> bool:
        """Whether the node has changed."""
        left, right = 2 * node, 2 * node + 1
        costs, fits, gates = self._costs, self._fits, self._gates
        cost = costs[left] if costs[left] < costs[right] else costs[right]
        fit = fits[left] if fits[left] > fits[right] else fits[right]
        gate = gates[left] if gates[left] > gates[right] else gates[right]
        if costs[node] == cost and fits[node] == fit and gates[node] == gate:
            return False
        costs[node], fits[node], gates[node] = cost, fit, gate
        return True
