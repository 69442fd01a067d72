"""Reads of what workers publish, and of what is reserved at them."""

import logging
from dataclasses import replace

from roost.contract.lease import WorkerLease
from roost.store.arguments import live_keys
from roost.store.keys import PoolKeys
from roost.store.leases import FORGET_MS
from roost.store.link import RedisLink
from roost.store.residency import Residency, warm_field
from roost.store.scripts import Call
from roost.store.worker_views import WorkerLook, WorkerView

_UNKNOWN = "?"
_log = logging.getLogger(__name__)


class WorkerReader:
    """Workers of each pool, as last read. Remembers their names, since a script needs the keys of their leases."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._known: dict[str, list[str]] = {}
        self._last: dict[str, dict[str, WorkerView]] = {}

    def known(self, pool: str) -> list[str]:
        """Names of the workers that lived at the last reading."""
        return self._known.get(pool, [])

    def learn(self, pool: str, worker_id: str) -> None:
        if worker_id not in self.known(pool):
            self._known[pool] = [*self.known(pool), worker_id]

    async def read(self, pool: str) -> list[WorkerView]:
        """Workers with a lease in force; in the grace period also those whose lease has run out since."""
        rows = await self._rows(pool)
        views = {row[0].decode(): view for row in rows if (view := _view(row))}
        if self._link.shards.grace_seconds(PoolKeys(pool).workers):
            run_out = {name: replace(view, ms_left=0) for name, view in self._last.get(pool, {}).items()}
            views = {**run_out, **views}
        self._known[pool], self._last[pool] = list(views), views
        return list(views.values())

    async def _rows(self, pool: str) -> list[list[bytes]]:
        """Reads all workers; in a second round trip when there is a new one."""
        keys = PoolKeys(pool)
        while True:
            known = self.known(pool)
            call = Call(
                {"workers": keys.workers, "reservations": keys.reservations, **live_keys(keys)},
                {"forget_ms": FORGET_MS},
                more_keys=[*map(keys.lease, known)],
                more_args=known,
            )
            _, *rows = await self._link.script("workers", call)
            new = [row[0].decode() for row in rows if row[2].decode() == _UNKNOWN]
            if not new:
                return list(rows)
            for worker_id in new:
                self.learn(pool, worker_id)


def _view(row: list[bytes]) -> WorkerView | None:
    worker_id, ms_left, document, tokens, attempts, live_tokens, live_target = row
    if not document:
        return None  # its lease runs out just now
    try:
        lease = WorkerLease.decode(document)
    except ValueError as error:
        _log.warning("worker %s published a lease that cannot be read: %s", worker_id.decode(), error)
        return None
    return WorkerView(
        lease=lease,
        ms_left=int(ms_left),
        reserved_tokens=int(tokens),
        reserved_attempts=int(attempts),
        live_tokens=int(live_tokens),
        live_target=int(live_target),
    )


async def read_worker(link: RedisLink, pool: str, worker_id: str, session_id: str, delay_ms: int) -> WorkerLook:
    """One worker as it is now, and what it has of a session."""
    keys = PoolKeys(pool)
    call = Call(
        {
            "workers": keys.workers,
            "reservations": keys.reservations,
            "live_sums": keys.live_sums,
            "lease": keys.lease(worker_id),
            "residency": keys.residency(worker_id),
            "descriptor": keys.session(session_id),
        },
        {"worker": worker_id, "session_id": session_id, "residency_delay_ms": delay_ms},
    )
    _, *row, cached, warm = await link.script("look", call)
    return WorkerLook(_view(row), int(cached), int(warm))


async def read_residency(
    link: RedisLink, pool: str, worker_ids: list[str], session_ids: list[str]
) -> dict[str, Residency]:
    """Session -> worker with most of its tokens cached, and how many."""
    if not worker_ids or not session_ids:
        return {}
    keys = [PoolKeys(pool).residency(worker_id) for worker_id in worker_ids]
    fields = [*session_ids, *map(warm_field, session_ids)]
    reply = await link.script("residency", Call(more_keys=keys, more_args=fields))
    best: dict[str, Residency] = {}
    for worker_id, row in zip(worker_ids, reply, strict=True):
        tokens = dict(zip(fields, row, strict=True))
        for session_id in session_ids:
            cached, warm = tokens[session_id], tokens[warm_field(session_id)]
            if cached or warm:
                here = Residency(worker_id, int(cached or 0), int(warm or 0))
                best[session_id] = max(best.get(session_id, here), here, key=Residency.order)
    return best
