"""What a pod does before it stops: `python -m roost_worker.server.pre_stop` tells its own worker to drain, and waits.

Told by the environment: ROOST_STORE_URL, ROOST_POOL, ROOST_POD_IP and ROOST_DRAIN_SECONDS. A store that does not answer
ends it at once: the pod is stopping, whatever it does.
"""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.cluster import RedisCluster
from redis.exceptions import RedisError

from roost.contract.drain import tell_to_drain
from roost.contract.lease import LEASE_TTL_SECONDS, WorkerLease
from roost.contract.names import PoolKeys

_POLL_SECONDS = 0.5
_UNSEEN_SECONDS = LEASE_TTL_SECONDS
"""How long a worker without a lease is looked for: a store that has just come back has none before it is renewed."""


def drain(client: Any, pool: str, address: str, seconds: float) -> bool:
    """Tells the workers at the host `address` to drain and waits for them, at most `seconds`; whether all are idle.

    Raises RedisError when the store does not answer.
    """
    keys, begin, seen = PoolKeys(pool), time.monotonic(), False
    while True:
        leases = _leases(client, keys, address)
        waited, seen = time.monotonic() - begin, seen or bool(leases)
        for lease in leases:
            client.execute_command(*tell_to_drain(keys, lease.worker_id, seconds))
        idle = all(lease.draining and not lease.running and not lease.waiting for lease in leases)
        if idle and (seen or waited >= _UNSEEN_SECONDS):
            return True
        if waited >= seconds:
            return idle
        time.sleep(_POLL_SECONDS)


def _leases(client: Any, keys: PoolKeys, address: str) -> list[WorkerLease]:
    workers = client.zrange(keys.workers, 0, -1)
    documents = [client.get(keys.lease(worker.decode())) for worker in workers]
    leases = [WorkerLease.decode(document) for document in documents if document]
    return [lease for lease in leases if lease.host == address]


def main(environment: Mapping[str, str]) -> int:
    """Always 0: a failing hook would only be one more event."""
    try:
        seconds = float(environment.get("ROOST_DRAIN_SECONDS", "30"))
        with _client(environment["ROOST_STORE_URL"]) as client:
            if not drain(client, environment["ROOST_POOL"], environment["ROOST_POD_IP"], seconds):
                sys.stderr.write(f"steps still run after {seconds:g} s; the worker stops all the same\n")
    except (RedisError, OSError) as error:
        sys.stderr.write(f"the store does not answer, the worker is not told to drain: {error}\n")
    except (KeyError, ValueError) as error:
        sys.stderr.write(f"the worker is not told to drain: {type(error).__name__}: {error}\n")
    return 0


def _client(url: str) -> Any:
    if "cluster=true" in url:
        return RedisCluster.from_url(url.replace("cluster=true", ""), socket_timeout=5)
    return Redis.from_url(url, socket_timeout=5)


if __name__ == "__main__":
    sys.exit(main(os.environ))
