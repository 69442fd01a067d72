"""Secrets of an installation, drawn once and kept over upgrades. Pure, except for the source of randomness.

Redis has five users: `gateway` and `operator`, with the rights to records that each needs; `worker`, with rights to
leases and residency only and none to run scripts (docs/contracts.md, "Redis keys"); `ray`, for the heads of Ray
clusters, which keep their state under their own keys; `default` is off.
"""

import hashlib
import json
from collections.abc import Callable, Mapping

from roost.store.keys import WORKER_RULES

Draw = Callable[[], str]
"""A fresh random text of letters, digits, `-` and `_`, at least 32 characters."""

_WRITERS = "-@all +@read +@write +@connection +@transaction +@scripting +@pubsub +time +info +config|get"
_HEADS = "-@all +@read +@write +@connection -@dangerous +info"
"""For keys `RAY<namespace>@…`. Ray looks for the primary by deleting the key DUMMY, which never exists."""
USERS: Mapping[str, str] = {
    "gateway": f"~roost:* resetchannels &roost:* {_WRITERS} -keys -flushall -flushdb -swapdb",
    "operator": f"~roost:* resetchannels &roost:* {_WRITERS} -keys -flushall -flushdb -swapdb",
    "ray": f"~RAY* ~DUMMY resetchannels {_HEADS}",
    "worker": WORKER_RULES,
}
"""Users of the chart's Redis and their rules."""


def store_secret(redis: str, draw: Draw) -> dict[str, str]:
    """The URLs of all users at `redis` (`host:port`), and the ACL file that Redis reads."""
    passwords = {user: draw() for user in USERS}
    lines = ["user default off"]
    for user, rules in USERS.items():
        digest = hashlib.sha256(passwords[user].encode()).hexdigest()
        lines.append(f"user {user} on #{digest} {rules}")
    urls = {f"{user}-url": f"redis://{user}:{password}@{redis}" for user, password in passwords.items()}
    return {**urls, "users.acl": "\n".join(lines) + "\n"}


def pool_key_secret(draw: Draw) -> dict[str, str]:
    """The key from which the secrets of all pools are derived (`roost.contract.pool_secret`)."""
    return {"key": draw()}


def api_keys_secret(draw: Draw) -> dict[str, str]:
    """A key file with one key, of tenant `default` for all pools, and the key itself."""
    key = f"roost-{draw()}"
    entry = {"id": "first", "sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": "default", "pools": ["*"]}
    return {"keys.yaml": json.dumps({"keys": [entry]}) + "\n", "first-key": key}
