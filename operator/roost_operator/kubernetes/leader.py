"""Leadership by a `coordination.k8s.io` Lease: one operator works, others wait until its lease has run out.

A leader that was stopped for a while (a paused virtual machine, SIGSTOP) does not know it when it goes on. Therefore
each of its writes asks `check` first, which compares the last renewal with the clock. A request that was sent before
cannot be called back; server-side apply of the same plan by two operators has the same result.

The election of the Kubernetes client cannot do this (`kubernetes.aio.leaderelection`, 37.0.2). Its `LeaseLock` fails to
create a Lease: it passes `pretty=True`, where its own API demands a text. It does not say when it renewed the lease,
does not give it back, ends at a connection that breaks, goes on renewing when the work has failed, and measures another
operator's silence by the wall clock, so that setting the clock forward takes the lease from a leader that lives.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, ApiError, Document
from roost_operator.kubernetes.tasks import until_one_ends

LOG = logging.getLogger(__name__)
NAME = "roost-operator"
SURE = 2 / 3
"""Part of the lease's time after which a leader that could not renew it stops, well before another may lead."""
_NO_ANSWER = (ApiError, OSError, TimeoutError)


class LostError(RuntimeError):
    """Another operator may lead now."""


class Leader:
    """Takes the lease and renews it. A holder that does not renew it for `seconds`, by this process's own clock, has
    lost it: clocks of different machines are never compared."""

    def __init__(self, api: Api, namespace: str, identity: str, seconds: float) -> None:
        self._api, self._namespace, self._identity, self._seconds = api, namespace, identity, seconds
        self._others_renewal: tuple[str, float] = ("", 0.0)
        """Holder and time that another operator has written, and when that was first read, by the monotonic clock."""
        self._renewed = float("-inf")
        self.tried = time.monotonic()
        """When the lease was last looked at, by the monotonic clock."""

    def check(self) -> None:
        """Raises LostError when another operator may lead by now."""
        if time.monotonic() - self._renewed > self._seconds * SURE:
            raise LostError("the lease was not renewed in time")

    async def lead(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Waits for leadership, then runs `work` until it ends or the lease is lost. Raises LostError then, so that
        the process ends and begins again without anything left over."""
        while not await self._try():  # noqa: ASYNC110  another operator holds it
            await asyncio.sleep(self._seconds / 5)
        LOG.info("%s leads", self._identity)
        try:
            await until_one_ends(work(), self._renew())
        finally:
            await self._release()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._seconds / 5)
            if not await self._try():
                self.check()

    async def _try(self) -> bool:
        """Take or renew the lease, which counts from before the request; return whether that succeeded."""
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
        except _NO_ANSWER as error:
            LOG.debug("the lease was not taken: %s", error)
            return False
        return True

    def _free(self, spec: Document) -> bool:
        holder, mark = spec.get("holderIdentity") or "", f"{spec.get('holderIdentity')} {spec.get('renewTime')}"
        if holder in ("", self._identity):
            return True
        if self._others_renewal[0] != mark:
            self._others_renewal = (mark, time.monotonic())
        return time.monotonic() - self._others_renewal[1] > self._seconds

    def _lease(self, spec: Document, live: Document | None) -> Document:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metadata: dict[str, Any] = {"name": NAME, "namespace": self._namespace}
        if live is not None:
            metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
        changed = spec.get("holderIdentity") != self._identity
        fields = {
            "holderIdentity": self._identity,
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
                lease["spec"]["holderIdentity"] = ""
                await self._api.replace(kinds.LEASE, self._namespace, NAME, lease)
        except _NO_ANSWER as error:
            LOG.warning("the lease was not given back: %s", error)
