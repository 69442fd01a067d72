"""Which server wrote the data of a state directory, so that none opens data that it cannot read.

Redis 6.2, which earlier versions of Roost start, keeps its append-only file as `appendonly.aof`; Redis 7 and Valkey
move it to the folder `appendonlydir`, where Redis 6.2 does not look: it would come up empty, sessions seemingly lost.
"""

import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from roost_operator.local.state_dir import StateDirectory, StateDirectoryError

MARKER = "redis-version"
_OLD_FILE = "appendonly.aof"
# Read as an RDB file of a later format, at which Redis 6.2 logs "Can't handle RDB format version 9999" and exits.
_REFUSED_BY_REDIS_6 = "REDIS9999\nA newer server wrote this folder, its data is in appendonlydir. Use a newer Roost.\n"


class ServerVersion(NamedTuple):
    """A server's name and the part of its version that decides what it can read."""

    name: str
    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name major.minor`. Raises ValueError."""
        name, _, version = text.strip().partition(" ")
        major, _, minor = version.partition(".")
        return cls(name, int(major), int(minor))

    @classmethod
    def of(cls, executable: Path) -> Self:
        """Ask the server binary. Raises OSError or subprocess.CalledProcessError when it cannot run here."""
        text = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True).stdout
        match = re.match(r"(\w+) server v=(\d+\.\d+)", text)
        if match is None:
            raise OSError(f"{executable} does not say its version: {text!r}")
        return cls.parse(" ".join(match.groups()))

    def reads(self, writer: "ServerVersion") -> bool:
        """Whether this server reads what `writer` wrote."""
        return self.name == writer.name and self >= writer

    def __str__(self) -> str:
        return f"{self.name} {self.major}.{self.minor}"


def mark_writer(state: StateDirectory, server: ServerVersion) -> None:
    """Record that `server` writes in `state` from now on. Raises StateDirectoryError when it cannot read what is there.

    A directory without a mark is empty or from Redis 6.2, which later servers read.
    """
    marker = state.file(MARKER)
    if marker.exists():
        writer = marker.read_text().strip()
        if not _reads(server, writer):
            raise StateDirectoryError(
                f"{state.path} was written by {writer}, which {server} of this installation cannot read; "
                "use the version of Roost that wrote it or a newer one, or give another directory with --state-dir"
            )
    state.write_private(MARKER, f"{server}\n")


def _reads(server: ServerVersion, writer: str) -> bool:
    try:
        return server.reads(ServerVersion.parse(writer))
    except ValueError:  # written by a later Roost, in a way of its own
        return False


def keep_redis_6_out(folder: Path) -> None:
    """Let Redis 6.2 fail in `folder`, which a newer server has opened, instead of coming up empty."""
    with suppress(FileExistsError), (folder / _OLD_FILE).open("x") as stream:
        stream.write(_REFUSED_BY_REDIS_6)
