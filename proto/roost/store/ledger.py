"""Reads of what workers publish, and of what the ledger holds against them."""

import logging

from roost.contract.lease import WorkerLease
from roost.contract.names import PoolKeys
from roost.store.link import RedisLink, Request
from roost.store.records import WorkerLook, WorkerView

FORGET_MS = 3_600_000
"""A worker whose lease ran out this long ago leaves the pool's set of workers."""
_UNKNOWN = "?"
_log = logging.getLogger(__name__)


class WorkerReader:
    """Workers of each pool, as last seen. Leases' keys are known by their workers' names, which are remembered here."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._known: dict[str, list[str]] = {}
        self._last: dict[str, dict[str, WorkerView]] = {}

    def known(self, pool: str) -> list[str]:
        """Names of the workers that were there when last looked."""
        return self._known.get(pool, [])

    def learn(self, pool: str, worker_id: str) -> None:
        if worker_id not in self.known(pool):
            self._known[pool] = [*self.known(pool), worker_id]

    async def read(self, pool: str) -> list[WorkerView]:
        """Workers with a lease in force; in the time of grace also those whose lease ran out meanwhile."""
        rows = await self._rows(pool)
        views = {row[0].decode(): view for row in rows if (view := _view(row))}
        if self._link.grace_left_ms:
            views = {**self._last.get(pool, {}), **views}
        self._known[pool], self._last[pool] = list(views), views
        return list(views.values())

    async def _rows(self, pool: str) -> list[list[bytes]]:
        """A second round trip only when there is a worker that was not there before."""
        while True:
            _, *rows = await self._link.script("workers", lambda grace: self._request(pool, grace))
            new = [row[0].decode() for row in rows if row[2].decode() == _UNKNOWN]
            if not new:
                return list(rows)
            for worker_id in new:
                self.learn(pool, worker_id)

    def _request(self, pool: str, grace: int) -> Request:
        keys, known = PoolKeys(pool), self.known(pool)
        return [keys.workers, keys.reservations, *map(keys.lease, known)], [grace, FORGET_MS, *known]


def _view(row: list[bytes]) -> WorkerView | None:
    worker_id, ms_left, document, tokens, attempts = row
    if not document:
        return None  # its lease runs out just now
    try:
        lease = WorkerLease.decode(document)
    except ValueError as error:
        _log.warning("worker %s published a lease that cannot be read: %s", worker_id.decode(), error)
        return None
    return WorkerView(lease=lease, ms_left=int(ms_left), reserved_tokens=int(tokens), reserved_attempts=int(attempts))


async def read_worker(link: RedisLink, pool: str, worker_id: str, session_id: str, delay_ms: int) -> WorkerLook:
    """One worker as it is now, and what it has of a session."""
    keys = PoolKeys(pool)
    touched = [keys.workers, keys.reservations, keys.lease(worker_id), keys.residency(worker_id)]
    touched.append(keys.session(session_id))
    _, *row, cached = await link.script("look", lambda grace: (touched, [grace, worker_id, session_id, delay_ms]))
    return WorkerLook(_view(row), int(cached))


async def read_residency(
    link: RedisLink, pool: str, worker_ids: list[str], session_ids: list[str]
) -> dict[str, tuple[str, int]]:
    """Session -> worker with most of its tokens cached, and how many."""
    if not worker_ids or not session_ids:
        return {}
    keys = [PoolKeys(pool).residency(worker_id) for worker_id in worker_ids]
    reply = await link.fixed_script("residency", keys, session_ids)
    found: dict[str, tuple[str, int]] = {}
    for worker_id, row in zip(worker_ids, reply, strict=True):
        for session_id, tokens in zip(session_ids, row, strict=True):
            if tokens and int(tokens) > found.get(session_id, ("", -1))[1]:
                found[session_id] = (worker_id, int(tokens))
    return found
