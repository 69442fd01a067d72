"""Real Redis servers for tests: one server, or a cluster of three shards. They die with the test process.

In a `conftest.py`: `from redis_servers import fresh_redis, redis_cluster, redis_server, shared_cluster, shared_redis`
(pytest wants the fixtures' names there; add `__all__`). Tests that kill or reconfigure take `fresh_redis`.
`ROOST_REDIS_SERVER` names another server binary than that of `roost up`, for example an older release.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from roost_operator.local.launcher import launched
from roost_operator.local.redis import server_executable

HOST = "127.0.0.1"
PATIENCE_SECONDS = 60.0
"""Timeout of a store whose test is not about timeouts: on a busy machine a test process may stand still for seconds."""
DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
"""What Roost wants of a store; `options` of a server go before."""
_POLLS, _POLL_SECONDS = 1500, 0.01
_SLOTS, _SHARDS = 16384, 3
_CLUSTER_BUS = 10000  # a node's bus port is its port + 10000


def executable() -> str:
    """Path of the server binary."""
    return os.environ.get("ROOST_REDIS_SERVER") or str(server_executable())


def free_port() -> int:
    """A port that is free together with its cluster bus port, below the range of outgoing connections, so that a
    killed server finds its port free again."""
    for _ in range(1000):
        port = 10000 + secrets.randbelow(12000)
        if _is_free(port) and _is_free(port + _CLUSTER_BUS):
            return port
    raise RuntimeError("no free port between 10000 and 22000; stop the servers that hold them")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex((HOST, port)) != 0 and _binds(port)


def _binds(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _tmp_root() -> str | None:
    """Memory if there is: a test's `appendfsync always` need not wear a disk, and SIGKILL does not lose tmpfs."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class RedisServer:
    """One real Redis in a folder of its own. `kill` and `start` again reads the append-only file, on the same port."""

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        self.options = {**DURABLE, **(options or {})}
        self.directory = Path(tempfile.mkdtemp(prefix="roost-redis-", dir=_tmp_root()))
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.directory / 'redis.sock'}"

    @property
    def pid(self) -> int:
        """Process id. Raises RuntimeError when the server does not run."""
        if self._process is None:
            raise RuntimeError("this Redis is not running; call start()")
        return self._process.pid

    def client(self) -> redis.Redis:
        """A synchronous client for a test's own questions; the caller closes it."""
        return redis.Redis(host=HOST, port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=PATIENCE_SECONDS)

    def start(self) -> "RedisServer":
        """Starts and waits until the server answers. A first start that loses its port to somebody takes another."""
        fixed = self.port
        for _ in range(1 if fixed else 5):
            self.port = fixed or free_port()
            self._spawn()
            if self._answers():
                return self
            self._reap()
        self.port = fixed
        raise RuntimeError(f"Redis did not start; its log:\n{self.log()}")

    def stop(self) -> None:
        """Ends it in order; its data stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """SIGKILL; its data stays."""
        self._reap()

    def restart(self) -> None:
        """SIGKILL, then a start from the append-only file."""
        self.kill()
        self.start()

    def close(self) -> None:
        """Kills it and removes its folder."""
        self._reap()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        path = self.directory / "redis.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> "RedisServer":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _spawn(self) -> None:
        paths = {"dir": self.directory, "unixsocket": self.directory / "redis.sock", "pidfile": ""}
        fixed = {"port": self.port, "bind": HOST, "daemonize": "no", **paths}
        lines = [f'{name} "{value}"' for name, value in {**fixed, **self.options}.items()]
        config = self.directory / "redis.conf"
        config.write_text("\n".join(lines) + "\n")
        with (self.directory / "redis.log").open("ab") as log:
            # A launcher and no preexec_fn: forking Python code in a process full of gRPC threads may deadlock.
            command = launched(executable(), str(config))
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def _answers(self) -> bool:
        with self.client() as client:
            for _ in range(_POLLS):
                if self._process is None or self._process.poll() is not None:
                    return False
                with suppress(RedisError):
                    client.ping()  # refused, unlike INFO, while the server reads its file
                    return int(client.info("server")["process_id"]) == self._process.pid  # else another's, on our port
                time.sleep(_POLL_SECONDS)
        return False

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()


class RedisCluster:
    """Three real shards, each with a third of the slots."""

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        cluster = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-node-timeout": "5000"}
        self.shards = [RedisServer({**cluster, **(options or {})}) for _ in range(_SHARDS)]

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.shards[0].port}?cluster=true"

    def client(self) -> redis.RedisCluster:
        """A synchronous client for a test's own questions; the caller closes it."""
        return redis.RedisCluster(host=HOST, port=self.shards[0].port)

    def start(self) -> "RedisCluster":
        """Starts the shards, joins them on the first start, and waits until each sees all slots served."""
        joined = all(shard.port for shard in self.shards)
        for shard in self.shards:
            shard.start()
        if not joined:
            self._join()
        for shard in self.shards:
            self._wait_ok(shard)
        return self

    def kill(self) -> None:
        """SIGKILL to all shards; their data stays."""
        for shard in self.shards:
            shard.kill()

    def bring_back(self, shard: int) -> None:
        """Starts a shard that was killed, and waits until each sees all slots served."""
        self.shards[shard].start()
        for other in self.shards:
            self._wait_ok(other)

    def restart(self) -> None:
        """SIGKILL to all shards, then a start from their append-only files."""
        self.kill()
        self.start()

    def close(self) -> None:
        for shard in self.shards:
            shard.close()

    def __enter__(self) -> "RedisCluster":
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _join(self) -> None:
        bounds = [_SLOTS * i // _SHARDS for i in range(_SHARDS + 1)]
        for i, shard in enumerate(self.shards):
            with shard.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
                client.execute_command("CLUSTER", "ADDSLOTS", *range(bounds[i], bounds[i + 1]))
                for other in self.shards[:i]:
                    client.execute_command("CLUSTER", "MEET", HOST, other.port)

    def _wait_ok(self, shard: RedisServer) -> None:
        with shard.client() as client:
            for _ in range(_POLLS):
                info = client.execute_command("CLUSTER INFO")
                if info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == _SHARDS:
                    return
                time.sleep(_POLL_SECONDS)
        raise RuntimeError(f"the cluster did not become ok; log of {shard.url}:\n{shard.log()}")


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """An empty Redis, as Roost wants it. Shared and emptied: do not kill or reconfigure it."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def redis_cluster(shared_cluster: RedisCluster) -> RedisCluster:
    """An empty cluster of three shards. Shared and emptied: do not kill or reconfigure it."""
    for shard in shared_cluster.shards:
        with shard.client() as client:
            client.flushall()
    return shared_cluster


@pytest.fixture
def fresh_redis() -> Iterator[RedisServer]:
    """A Redis of the test's own, to kill and restart."""
    with RedisServer() as server:
        yield server
