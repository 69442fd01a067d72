"""A session's committed ids on their way to a worker that lacks them."""

from collections.abc import AsyncIterator

from roost.store.interface import SessionStore
from roost.v1.worker_service_pb2 import History

RUN_IDS = 64 * 1024
"""Ids in one History message: 256 KiB."""
_ENTRIES = 32


class SessionHistory:
    """The log of one generation up to its head, `length` ids in `steps` steps."""

    def __init__(self, store: SessionStore, session_id: str, generation: int, length: int, steps: int) -> None:
        self._store = store
        self._session_id = session_id
        self._generation = generation
        self._length = length
        self._steps = steps

    async def runs(self, start: int) -> AsyncIterator[History]:
        """Runs from position `start` to the head, with the ends of their steps; at least one, the last one marked.

        Raises StoreUnavailableError.
        """
        start = min(start, self._length)
        ends = await self._step_ends(start)
        while True:
            stop = min(self._length, start + RUN_IDS)
            ids = await self._store.ids(self._session_id, self._generation, start, stop)
            within = [end for end in ends if start < end <= stop]
            yield History(offset=start, token_ids=ids, last=stop == self._length, step_ends=within)
            if stop == self._length:
                return
            start = stop

    async def _step_ends(self, start: int) -> list[int]:
        """Where steps end after `start`, ascending. Read from the log's end: a worker mostly lacks the last steps."""
        ends: list[int] = []
        first = self._steps
        while first > 0 and (not ends or ends[-1] > start):
            count = min(_ENTRIES, first)
            first -= count
            entries = await self._store.log(self._session_id, self._generation, first, count)
            ends.extend(entry.head.length for entry in reversed(entries))
        return sorted(end for end in ends if end > start)
