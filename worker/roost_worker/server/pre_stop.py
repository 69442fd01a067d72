"""What a pod does before it stops: `python -m roost_worker.server.pre_stop` asks its own worker to drain, and waits.

Its environment: ROOST_STORE_URL, ROOST_POOL, ROOST_POD_IP and ROOST_DRAIN_SECONDS. A store that does not answer ends it
at once: the pod is stopping in any case.
"""

import asyncio
import os
import sys
import time
from collections.abc import Mapping

from redis.exceptions import RedisError

from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.refused import Refused
from roost.store.leases import ask_to_drain, live_leases
from roost.store.link import RedisLink
from roost.store.records import StoreAwayError

_POLL_SECONDS = 0.5
_UNSEEN_SECONDS = LEASE_TTL_SECONDS
"""How long to wait for the worker's lease: a store that has just come back has none until they are renewed."""


async def drain(link: RedisLink, pool: str, address: str, seconds: float) -> bool:
    """Asks the workers at the host `address` to drain and waits for them, at most `seconds`; whether all are idle.

    Raises StoreAwayError, and Refused when the store is full.
    """
    begin, known = time.monotonic(), False
    while True:
        leases = [lease for lease in await live_leases(link, pool) if lease.host == address]
        waited, known = time.monotonic() - begin, known or bool(leases)
        for lease in leases:
            await ask_to_drain(link, pool, lease.worker_id, seconds)
        idle = all(lease.draining and not lease.running and not lease.waiting for lease in leases)
        if idle and (known or waited >= _UNSEEN_SECONDS):
            return True
        if waited >= seconds:
            return idle
        await asyncio.sleep(_POLL_SECONDS)


async def _drain(environment: Mapping[str, str], seconds: float) -> bool:
    link = RedisLink.open(environment["ROOST_STORE_URL"], socket_timeout=5.0)
    try:
        return await drain(link, environment["ROOST_POOL"], environment["ROOST_POD_IP"], seconds)
    finally:
        await link.aclose()


def main(environment: Mapping[str, str]) -> int:
    """Always 0: a failing hook would only be one more event."""
    try:
        seconds = float(environment.get("ROOST_DRAIN_SECONDS", "30"))
        if not asyncio.run(_drain(environment, seconds)):
            sys.stderr.write(f"steps still run after {seconds:g} s; the worker stops all the same\n")
    except (StoreAwayError, RedisError) as error:
        sys.stderr.write(f"the store does not answer, the worker is not asked to drain: {error}\n")
    except (KeyError, ValueError, Refused) as error:
        sys.stderr.write(f"the worker is not asked to drain: {type(error).__name__}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
