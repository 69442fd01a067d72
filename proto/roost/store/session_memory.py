"""What a gateway remembers of sessions to name the keys of their scripts. A script that lacks a key says so."""

from collections import OrderedDict
from collections.abc import Sequence

from roost.store.records import FIRST_GENERATION

SESSIONS_REMEMBERED = 10_000
FEW_WORKERS = 16
"""Of a pool with no more workers than this, all are named for a session of which nothing is remembered."""
_HOSTS_REMEMBERED = 2


class SessionMemory:
    """Of the sessions used last: how many generations they have, and which workers their next Begin may ask for."""

    def __init__(self, most: int = SESSIONS_REMEMBERED) -> None:
        self._most = most
        self._generations: OrderedDict[str, int] = OrderedDict()
        self._hosts: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def generations(self, session_id: str) -> int:
        if session_id in self._generations:
            self._generations.move_to_end(session_id)
        return self._generations.get(session_id, FIRST_GENERATION)

    def learn_generations(self, session_id: str, generations: int) -> None:
        self._generations[session_id] = generations
        self._generations.move_to_end(session_id)
        _shorten(self._generations, self._most)

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


def _shorten(remembered: OrderedDict[str, int] | OrderedDict[str, tuple[str, ...]], most: int) -> None:
    while len(remembered) > most:
        remembered.popitem(last=False)
