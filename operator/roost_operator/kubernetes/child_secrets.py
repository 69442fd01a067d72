"""A pool's own Secrets, remembered for a while: they are not watched, so that each look at one is a request."""

import time
from collections.abc import Callable

from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Document, Reader
from roost_operator.kubernetes.kinds import Kind
from roost_operator.kubernetes.known_objects import slimmed

SECRET_SECONDS = 20.0
"""How old an answer about a child Secret may be. With a resync of 10 s, what somebody else does to it is mended within
30 s."""


class ChildSecrets:
    """A `Reader` for the children of one pool that does not read a Secret again for `SECRET_SECONDS`.

    It is kept for a settled pool only, until its spec changes or the operator writes something of it (`Reconciler`).
    The Secrets that a spec names are people's, and are not read here.
    """

    def __init__(self, reader: Reader, generation: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`generation` is the pool's; `clock` returns seconds."""
        self.generation = generation
        self._reader, self._clock = reader, clock
        self._answers: dict[tuple[str, str], tuple[float, Document | None]] = {}
        """Time of reading and the Secret, or None for one that did not exist, by namespace and name."""

    async def knows(self, kind: Kind) -> bool:
        return await self._reader.knows(kind)

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        if kind is not kinds.SECRET:
            return await self._reader.get(kind, namespace, name)
        now = self._clock()
        read_at, secret = self._answers.get((namespace, name), (float("-inf"), None))
        if now - read_at >= SECRET_SECONDS:
            secret = await self._reader.get(kind, namespace, name)
            self._answers[namespace, name] = now, slimmed(secret) if secret else None
        return secret

    async def of_pool(self, kind: Kind, namespace: str, pool: str, component: str = "") -> list[Document]:
        return await self._reader.of_pool(kind, namespace, pool, component)
