"""What an installation keeps secret: drawn once, kept over upgrades. Pure but for the source of randomness.

Redis knows five users: `gateway` and `operator`, each with what it needs of the records; `worker`, which reaches
leases and residency only (ARCHITECTURE.md, "Redis keys"); `ray`, with which the heads of Ray clusters keep their state
under keys of their own; `default` is off.
"""

import hashlib
import json
from collections.abc import Callable, Mapping

Draw = Callable[[], str]
"""A fresh random text of letters, digits, `-` and `_`, at least 32 characters."""

_WRITERS = "-@all +@read +@write +@connection +@transaction +@scripting +@pubsub +time +info +config|get"
_WORKERS = "-@all +@read +@write +@connection +@transaction +@scripting +time +info -@dangerous +info"
_HEADS = "-@all +@read +@write +@connection -@dangerous +info"
"""For keys `RAY<namespace>@…`. Ray asks for the primary by deleting the key DUMMY, which is never there."""
USERS: Mapping[str, str] = {
    "gateway": f"~roost:* resetchannels &roost:* {_WRITERS} -keys -flushall -flushdb -swapdb",
    "operator": f"~roost:* resetchannels &roost:* {_WRITERS} -keys -flushall -flushdb -swapdb",
    "ray": f"~RAY* ~DUMMY resetchannels {_HEADS}",
    "worker": f"~roost:{{*}}:w ~roost:{{*}}:w:* resetchannels {_WORKERS}",
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
    """A key file with one key, of tenant `default` for all pools, and that key beside it."""
    key = f"roost-{draw()}"
    entry = {"id": "first", "sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": "default", "pools": ["*"]}
    return {"keys.yaml": json.dumps({"keys": [entry]}) + "\n", "first-key": key}
