"""The Lua scripts, one file each. The head of a script names its KEYS and ARGV, and both sides take them from there.

A script is sent by its hash, and as a whole when the server does not know it.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import chain

from roost.store import service, working_set

NAMES = (
    "abort",
    "begin",
    "close",
    "commit",
    "delete",
    "detached_begin",
    "detached_cancel",
    "detached_read",
    "detached_report",
    "detached_take",
    "evict",
    "extend",
    "fork",
    "get",
    "hold",
    "keep",
    "look",
    "migrate",
    "move",
    "mover",
    "open",
    "quarantine",
    "read",
    "release",
    "remember",
    "renew",
    "reserve",
    "residency",
    "residents",
    "workers",
)
SHARED = ("_common", "_logs", "_budgets", "_repetition", "_ledger", "_service", "_working_set", "_waiters")
"""Put before every script, after the constants of `roost.store.working_set` and `roost.store.service`."""
_CONSTANTS = {"WORKING_SET": working_set, "SERVICE": service}
Arg = str | bytes | int | float
GRACE = "grace_ms"
"""The argument that `RedisLink` gives: how long nobody may expire yet, in ms."""
_COMMENT = re.compile(r"\([^)]*\)")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Call:
    """KEYS and ARGV of one run of a script. `more_keys` and `more_args` follow those that the script names."""

    keys: Mapping[str, str] = field(default_factory=dict)
    args: Mapping[str, Arg] = field(default_factory=dict)
    more_keys: Sequence[str] = ()
    more_args: Sequence[Arg] = ()

    @property
    def key(self) -> str:
        """Any of the keys, since all are on one server."""
        return next(chain(self.keys.values(), self.more_keys))


@dataclass(frozen=True, slots=True)
class Script:
    """A script as Redis gets it, with the names of its KEYS and ARGV in their order."""

    name: str
    source: str
    sha: str
    keys: tuple[str, ...]
    args: tuple[str, ...]

    def arguments(self, call: Call, grace_ms: int) -> tuple[list[str], list[Arg]]:
        """KEYS and ARGV. Raises KeyError when the call lacks a name, ValueError when it has too many."""
        args = {**call.args, GRACE: grace_ms} if GRACE in self.args else call.args
        if len(call.keys) != len(self.keys) or len(args) != len(self.args):
            unknown = sorted(call.keys.keys() - set(self.keys) | args.keys() - set(self.args))
            raise ValueError(f"script {self.name} does not take {unknown}, or lacks a name")
        return (
            [*(call.keys[name] for name in self.keys), *call.more_keys],
            [*(args[name] for name in self.args), *call.more_args],
        )


@cache
def script(name: str) -> Script:
    """The script `name` of `NAMES`. Raises KeyError for another name."""
    if name not in NAMES:
        raise KeyError(name)
    folder = files("roost.store") / "scripts"
    *shared, body = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*SHARED, name)]
    keys, texts, numbers = (_declared(body, what) for what in ("KEYS", "ARGV", "NUMBERS"))
    source = "\n".join([_constants(), *shared, _tables(keys, texts, numbers), body])
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, source, sha, keys, texts + numbers)


def _declared(body: str, what: str) -> tuple[str, ...]:
    """Names in the paragraph `-- KEYS name, name (comment), …; what follows them` of a script's head."""
    paragraph = re.search(rf"^-- {what}\b(.*(?:\n--   .*)*)", body, flags=re.M)
    if paragraph is None:
        return ()
    names = _COMMENT.sub("", _SPACE.sub(" ", paragraph[1].replace("\n--", " "))).partition(";")[0]
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _constants() -> str:
    """Lua that has the constants of modules in tables."""
    tables = {
        table: sorted((name, value) for name, value in vars(module).items() if _is_constant(name, value))
        for table, module in _CONSTANTS.items()
    }
    return "\n".join(
        f"local {table} = {{{', '.join(f'{name} = {value!r}' for name, value in constants)}}}"
        for table, constants in tables.items()
    )


def _is_constant(name: str, value: object) -> bool:
    return name.isupper() and isinstance(value, int | str)


def _tables(keys: Sequence[str], texts: Sequence[str], numbers: Sequence[str]) -> str:
    """Lua that puts KEYS and ARGV into tables by their names."""
    named_keys = [f"{name} = KEYS[{place}]" for place, name in enumerate(keys, 1)]
    named_args = [f"{name} = ARGV[{place}]" for place, name in enumerate(texts, 1)]
    named_args += [f"{name} = tonumber(ARGV[{place}])" for place, name in enumerate(numbers, len(texts) + 1)]
    return (
        f"local keys, named_keys = {{{', '.join(named_keys)}}}, {len(named_keys)}\n"
        f"local args, named_args = {{{', '.join(named_args)}}}, {len(named_args)}\n"
    )
