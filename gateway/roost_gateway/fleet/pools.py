"""The pools that a gateway serves: their documents as the store had them last."""

import asyncio
import logging
from collections.abc import Sequence

from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.codec import CorruptRecordError
from roost.store.interface import SessionStore
from roost.store.records import StoreAwayError

log = logging.getLogger(__name__)


class Pools:
    """The configured pools, or, when none is configured, every pool that the store knows."""

    def __init__(self, store: SessionStore, configured: Sequence[str]) -> None:
        self._store = store
        self._configured = tuple(configured)
        self._documents: dict[str, PoolDocument] = {}

    @property
    def names(self) -> list[str]:
        return list(self._documents)

    def known(self, name: str) -> PoolDocument | None:
        """The pool's document as it was last read, or None."""
        return self._documents.get(name)

    async def get(self, name: str) -> PoolDocument:
        """The pool's document, read now only if it has never been. Raises Refused: POOL_NOT_FOUND;
        StoreAwayError."""
        if name not in self._documents and (not self._configured or name in self._configured):
            await self._read(name)
        document = self._documents.get(name)
        if document is None:
            raise Refused(Reason.POOL_NOT_FOUND, f"there is no pool {name!r} here; name one as namespace/name")
        return document

    async def reread(self, name: str) -> PoolDocument:
        """The pool's document, read now. Raises Refused: POOL_NOT_FOUND; StoreAwayError."""
        await self._read(name)
        return await self.get(name)

    async def read_all(self) -> tuple[set[str], bool]:
        """Reads every document and forgets pools that are gone. Returns the names of those that are gone, and whether
        every document could be read; one that could not, since its part of a cluster is away, stays as it was.

        Raises StoreAwayError when the store does not say which pools there are.
        """
        names = self._configured or await self._store.pools()
        are_read = await asyncio.gather(*(self._can_read(name) for name in names))
        gone = set(self._documents) - set(names)
        for name in gone:
            del self._documents[name]
        return gone, all(are_read)

    async def _can_read(self, name: str) -> bool:
        try:
            await self._read(name)
        except StoreAwayError:
            return False
        return True

    async def _read(self, name: str) -> None:
        try:
            document = await self._store.pool_document(name)
            if document is None:
                self._documents.pop(name, None)
            else:
                self._documents[name] = PoolDocument.from_json(name, document)
        except (ValueError, CorruptRecordError) as error:  # the one that was read before stays in force
            log.error("%s", error)


def require_open(pool: PoolDocument) -> None:
    """Raises Refused: POOL_SUSPENDED."""
    if pool.suspend:
        raise Refused(
            Reason.POOL_SUSPENDED,
            f"pool {pool.pool} is suspended; set suspend to false",
            retry_seconds=30.0,
        )
