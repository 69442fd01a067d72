"""Leadership by a `coordination.k8s.io` Lease: one operator works, others wait till its lease has run out.

A leader that was stopped for a while (a paused virtual machine, SIGSTOP) does not know it when it goes on. Therefore
each of its writes asks `check` first, which compares the last renewal with the clock. What was sent already
when it was stopped cannot be called back; server-side apply of the same plan by two operators ends the same.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, ApiError, Document

LOG = logging.getLogger(__name__)
NAME = "roost-operator"
SURE = 2 / 3
"""Part of the lease's time after which a leader that could not renew it stops, well before another may lead."""
_TROUBLE = (ApiError, OSError, asyncio.TimeoutError)


class Leader:
    """Takes the lease and renews it. A holder that is silent for `seconds`, by this process's own clock, has lost it:
    clocks of different machines are never compared."""

    def __init__(self, api: Api, namespace: str, identity: str, seconds: float) -> None:
        self._api, self._namespace, self._identity, self._seconds = api, namespace, identity, seconds
        self._seen: tuple[str, float] = ("", 0.0)
        self._renewed = float("-inf")
        self.tried = time.monotonic()
        """When the lease was looked at last, by the monotonic clock."""

    def check(self) -> None:
        """Raises LostError when somebody else may lead by now."""
        if time.monotonic() - self._renewed > self._seconds * SURE:
            raise LostError("the lease was not renewed in time")

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Waits for leadership, then runs `work` until it ends or the lease is lost. Raises LostError then, so that
        the process ends and begins again without anything left over."""
        while not await self._try():  # noqa: ASYNC110  others hold it, elsewhere
            await asyncio.sleep(self._seconds / 5)
        LOG.info("%s leads", self._identity)
        working = asyncio.ensure_future(work())
        renewing = asyncio.ensure_future(self._renew())
        try:
            done, _ = await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (working, renewing):
                task.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)
            await self._release()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._seconds / 5)
            if not await self._try():
                self.check()

    async def _try(self) -> bool:
        """Takes or renews the lease; it counts from before it was asked for."""
        self.tried = started = time.monotonic()
        if await self._take():
            self._renewed = started
            return True
        return False

    async def _take(self) -> bool:
        try:
            lease = await self._api.get(kinds.LEASE, self._namespace, NAME)
            if lease is None:
                await self._api.create(kinds.LEASE, self._namespace, self._lease({}, None))
                return True
            if not self._free(lease["spec"]):
                return False
            await self._api.replace(kinds.LEASE, self._namespace, NAME, self._lease(lease["spec"], lease))
        except _TROUBLE as error:
            LOG.debug("the lease was not taken: %s", error)
            return False
        return True

    def _free(self, spec: Document) -> bool:
        holder, mark = spec.get("holderIdentity") or "", f"{spec.get('holderIdentity')} {spec.get('renewTime')}"
        if holder in ("", self._identity):
            return True
        if self._seen[0] != mark:
            self._seen = (mark, time.monotonic())
        return time.monotonic() - self._seen[1] > self._seconds

    def _lease(self, spec: Document, live: Document | None, holder: str | None = None) -> Document:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metadata: dict[str, Any] = {"name": NAME, "namespace": self._namespace}
        if live is not None:
            metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
        wanted = self._identity if holder is None else holder
        changed = spec.get("holderIdentity") != wanted
        fields = {
            "holderIdentity": wanted,
            "leaseDurationSeconds": max(1, round(self._seconds)),
            "renewTime": now,
            "acquireTime": now if changed else spec.get("acquireTime", now),
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + int(changed),
        }
        return {"apiVersion": kinds.LEASE.api_version, "kind": "Lease", "metadata": metadata, "spec": fields}

    async def _release(self) -> None:
        """Gives the lease back, so that the next operator need not wait; a failure only makes it wait."""
        try:
            lease = await self._api.get(kinds.LEASE, self._namespace, NAME)
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                await self._api.replace(kinds.LEASE, self._namespace, NAME, self._lease(lease["spec"], lease, ""))
        except _TROUBLE as error:
            LOG.warning("the lease was not given back: %s", error)


class LostError(RuntimeError):
    """Somebody else may lead now."""
