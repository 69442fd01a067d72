"""Leadership by a `coordination.k8s.io` Lease: the election of the Kubernetes client, and what it lacks.

What `kubernetes.aio.leaderelection` 37.0.2 cannot do, and this module does:

- say when the lease was renewed. A leader that was stopped for a while (a paused virtual machine, SIGSTOP) does not
  know it when it goes on, so each of its writes asks `check` first, which compares the renewal with its own clock;
- give the lease back at the end;
- outlive an API server that does not answer: only its `ApiException` is caught, and a request may take five minutes;
- notice that the work has failed: `LeaderElection.run` would renew the lease without it, so that `acquire` and
  `renew_loop` are called by themselves here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import TIMEOUT_SECONDS, Api, ApiError
from roost_operator.kubernetes.tasks import until_one_ends

LOG = logging.getLogger(__name__)
NAME = "roost-operator"
SURE = 2 / 3
"""Part of the lease's time after which a leader that could not renew it stops, well before another may lead."""
_NO_ANSWER = (aiohttp.ClientError, OSError, TimeoutError)


class LostError(RuntimeError):
    """Another operator may lead now."""


class Leader:
    """Takes the lease and renews it. Whoever else holds it has lost it when it has not renewed it for `seconds`."""

    def __init__(self, api: Api, namespace: str, identity: str, seconds: int) -> None:
        self._api, self._namespace, self._identity, self._seconds = api, namespace, identity, seconds
        self._lock = _Lock(NAME, namespace, identity, api.client)

    @property
    def tried(self) -> float:
        """When the lease was last looked at, by the monotonic clock."""
        return self._lock.tried

    def check(self) -> None:
        """Raises LostError when another operator may lead by now."""
        if time.monotonic() - self._lock.renewed > self._seconds * SURE:
            raise LostError("the lease was not renewed in time")

    async def lead(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Waits for leadership, then runs `work` until it ends or the lease is lost. Raises LostError then, so that
        the process ends and begins again without anything left over."""
        config = Config(self._lock, self._seconds, self._seconds * SURE, max(1, self._seconds / 5), work, work)
        election = LeaderElection(config)
        await election.acquire()
        LOG.info("%s leads", self._identity)
        try:
            await until_one_ends(work(), self._renew(election))
        finally:
            await self._release()

    async def _renew(self, election: LeaderElection) -> None:
        await election.renew_loop()
        raise LostError("the lease was not renewed in time")

    async def _release(self) -> None:
        """Gives the lease back, so that the next operator need not wait; a failure only makes it wait."""
        try:
            lease = await self._api.get(kinds.LEASE, self._namespace, NAME)
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._api.replace(kinds.LEASE, self._namespace, NAME, lease)
        except (ApiError, OSError, TimeoutError) as error:
            LOG.warning("the lease was not given back: %s", error)


class _Lock(LeaseLock):  # type: ignore[misc]  # it has no types
    """The client's lock, whose calls end in time, and which notes when they succeed."""

    def __init__(self, name: str, namespace: str, identity: str, client: Any) -> None:
        super().__init__(name, namespace, identity, client)
        self.tried, self.renewed = time.monotonic(), float("-inf")
        """When the lease was last looked at, and when the last attempt that took or renewed it began."""

    async def get(self, name: str, namespace: str) -> tuple[bool, Any]:
        self.tried = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                found: tuple[bool, Any] = await super().get(name, namespace)
                return found
        except _NO_ANSWER as error:
            return False, ApiException(reason=str(error) or type(error).__name__)

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        return await self._note(super().create(name, namespace, election_record))

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        return await self._note(super().update(name, namespace, updated_record))

    async def _note(self, call: Coroutine[Any, Any, bool]) -> bool:
        began = self.tried
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                succeeded = await call
        except _NO_ANSWER as error:
            LOG.warning("the lease cannot be written: %s", error or type(error).__name__)
            return False
        if succeeded:
            self.renewed = began
        return succeeded
