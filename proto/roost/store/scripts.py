"""The Lua scripts, one file each. A script is sent by its hash, and whole when the server does not know it."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

NAMES = (
    "abort",
    "begin",
    "close",
    "commit",
    "delete",
    "evict",
    "get",
    "hold",
    "look",
    "migrate",
    "open",
    "release",
    "renew",
    "reserve",
    "residency",
    "workers",
)
SHARED = ("_common", "_ledger", "_waiters")
"""What goes before every script."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script as Redis gets it."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script `name` of `NAMES`, with the shared functions before it. Raises KeyError for another name."""
    if name not in NAMES:
        raise KeyError(name)
    folder = files("roost.store") / "scripts"
    parts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*SHARED, name)]
    source = "\n".join(parts)
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
