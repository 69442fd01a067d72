"""Remembers shapes and hosts of recent sessions, so that KEYS can be named before a call; a script replies `again` when
one is missing."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from roost.store.keys import PoolKeys
from roost.store.records import FIRST_GENERATION

SESSIONS_REMEMBERED = 10_000
FEW_WORKERS = 16
"""In pools of at most so many workers, the first Begin of an unknown session names all of them."""
_HOSTS_REMEMBERED = 2
_PART = re.compile(r"\|(\d+):\d+:\d+:(\w+)")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a session's keys are: how many logs of its own it has, and which of other sessions it shares."""

    generations: int = FIRST_GENERATION
    base: str = ""
    """Where the steps lie that a fork shares (`_logs.lua`); empty for a session that is not a fork."""

    def keys(self, pool: PoolKeys, session_id: str) -> list[str]:
        """Every key of the session, as `session_keys` of `_logs.lua` takes them."""
        keys = [pool.session(session_id), pool.steps(session_id), pool.family(session_id)]
        if self.base:
            first = self.family(session_id)
            keys += [pool.session(first), pool.family(first)]
        for generation, name in _PART.findall(self.base):
            other = f"{pool.pool}/{name}"
            keys += [pool.session(other), *_log_keys(pool, other, int(generation))]
        for generation in range(FIRST_GENERATION, FIRST_GENERATION + self.generations):
            keys += _log_keys(pool, session_id, generation)
        return keys

    def family(self, session_id: str) -> str:
        """The first of all sessions that were branched off one another."""
        first = self.base.partition("|")[0]
        return f"{session_id.rpartition('/')[0]}/{first}" if first else session_id


def _log_keys(pool: PoolKeys, session_id: str, generation: int) -> list[str]:
    return [pool.log(session_id, generation), pool.ids(session_id, generation), pool.forks(session_id, generation)]


class KnownKeys:
    """Of the sessions used last: their shapes, and which workers their next Begin may ask for."""

    def __init__(self, most: int = SESSIONS_REMEMBERED) -> None:
        self._most = most
        self._shapes: OrderedDict[str, Shape] = OrderedDict()
        self._hosts: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def shape(self, session_id: str) -> Shape:
        if session_id in self._shapes:
            self._shapes.move_to_end(session_id)
        return self._shapes.get(session_id, Shape())

    def learn_shape(self, session_id: str, shape: Shape) -> None:
        if shape == Shape() and session_id not in self._shapes:
            return  # as of a session that is not known
        self._shapes[session_id] = shape
        self._shapes.move_to_end(session_id)
        _shorten(self._shapes, self._most)

    def hosts(self, session_id: str, workers: Sequence[str]) -> Sequence[str]:
        """Workers to name in the session's next Begin, of a pool whose workers are `workers`."""
        remembered = self._hosts.get(session_id)
        if remembered is None:
            return workers if len(workers) <= FEW_WORKERS else ()
        return remembered

    def learn_host(self, session_id: str, worker_id: str) -> None:
        """Adds a worker that has to do with the session: its owner, or where an attempt of it runs."""
        others = [other for other in self._hosts.get(session_id, ()) if other != worker_id]
        self._hosts[session_id] = (*others, worker_id)[-_HOSTS_REMEMBERED:]
        self._hosts.move_to_end(session_id)
        _shorten(self._hosts, self._most)


def _shorten(remembered: OrderedDict[str, _V], most: int) -> None:
    while len(remembered) > most:
        remembered.popitem(last=False)
