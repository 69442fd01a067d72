"""The operator as processes: it leads by a Lease, watches by kopf with its own rights only, and another takes over."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from api_server import ApiServer, KubectlError, kuberay_definitions
from redis_servers import RedisServer, free_port
from roost_operator.__main__ import main
from roost_operator.kubernetes.rbac import cluster_role, cluster_role_binding
from roost_operator.kubernetes.settings import SettingsError, settings_from

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "manifests" / "samples" / "pool-dummy.yaml"
WAIT_SECONDS = 40.0


class Operator:
    """One operator's process."""

    def __init__(self, server: ApiServer, redis: RedisServer, namespace: str, identity: str) -> None:
        self.identity, self.metrics, self.liveness = identity, free_port(), free_port()
        self.log = server.directory / f"{namespace}-{identity}.log"
        environment = {
            **os.environ,
            "KUBECONFIG": str(server.kubeconfig("operator")),
            "ROOST_STORE_URL": redis.url,
            "ROOST_POOL_KEY": "k" * 32,
            "ROOST_NAMESPACE": namespace,
            "ROOST_IDENTITY": identity,
            "ROOST_RESYNC_SECONDS": "2",
            "ROOST_LEASE_SECONDS": "3",
            "ROOST_METRICS_HOST": "127.0.0.1",
            "ROOST_METRICS_PORT": str(self.metrics),
            "ROOST_LIVENESS": f"http://127.0.0.1:{self.liveness}/healthz",
        }
        command = [sys.executable, "-m", "roost_operator"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def get(self, port: int, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())


@pytest.fixture
def start(api_server: ApiServer, redis_server: RedisServer, namespace: str) -> Iterator[Callable[[str], Operator]]:
    definitions = kuberay_definitions()
    if definitions is None:
        pytest.skip("no KubeRay definitions in the cache of Go modules; go mod download ray-operator")
    for name in ("rayservices", "rayclusters"):
        api_server.kubectl("apply", "--server-side", "-f", str(definitions / f"ray.io_{name}.yaml"))
    role = yaml.safe_dump_all([cluster_role(), cluster_role_binding("User", "operator")])
    api_server.kubectl("apply", "-f", "-", stdin=role)
    running: list[Operator] = []

    def begin(identity: str) -> Operator:
        running.append(Operator(api_server, redis_server, namespace, identity))
        return running[-1]

    yield begin
    for one in running:
        one.process.kill()
        one.process.wait()


def until(what: str, holds: Callable[[], bool], *operators: Operator) -> None:
    """What is waited for happens in other processes."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        with contextlib.suppress(KubectlError, OSError):
            if holds():
                return
        if time.monotonic() > end:
            logs = "\n".join(f"{one.identity}:\n{one.log.read_text()[-3000:]}" for one in operators)
            raise AssertionError(f"{what}\n{logs}")
        time.sleep(0.2)


def test_one_leads_and_another_takes_over(
    start: Callable[[str], Operator], api_server: ApiServer, namespace: str
) -> None:
    def holder() -> str:
        return str(api_server.get("lease", "roost-operator", namespace)["spec"]["holderIdentity"])

    def service() -> bool:
        return "deletionTimestamp" not in api_server.get("rayservice", "dummy", namespace)["metadata"]

    first = start("first")
    until("the first operator leads", lambda: holder() == "first", first)
    second = start("second")
    api_server.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    until("the pool has a RayService", service, first, second)
    until("it lives", lambda: bool(first.get(first.liveness, "/healthz")) or True, first)
    until("it tells", lambda: "roost_operator_leader 1.0" in first.get(first.metrics, "/metrics"), first)
    until("the other waits", lambda: "roost_operator_leader 0.0" in second.get(second.metrics, "/metrics"), second)
    first.process.send_signal(signal.SIGKILL)
    api_server.kubectl("delete", "-n", namespace, "rayservice/dummy", "--wait=false")
    until("the second operator leads", lambda: holder() == "second", second)
    until("the RayService is back", service, second)
    uid = api_server.get("ap", "dummy", namespace)["metadata"]["uid"]
    owners = api_server.get("rayservice", "dummy", namespace)["metadata"]["ownerReferences"]
    assert [owner["uid"] for owner in owners] == [uid]
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(20) == 0, second.log.read_text()[-3000:]
    until("the lease is given back", lambda: holder() == "", second)
    refused = [event for event in api_server.requests("operator") if event["responseStatus"].get("code") == 403]
    assert sorted({(event["verb"], event["requestURI"].split("?")[0]) for event in refused}) == []
    assert "finalizers" in json.dumps(api_server.get("ap", "dummy", namespace)["metadata"])


def test_settings_name_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="set ROOST_POOL_KEY to at least 32"):
        settings_from({})
    with pytest.raises(SettingsError, match="ROOST_POD_MONITORS: 'maybe' is not allowed; write true or false"):
        settings_from({"ROOST_POOL_KEY": "k", "ROOST_POD_MONITORS": "maybe"})
    with pytest.raises(SettingsError, match="mount the Secret there"):
        settings_from({"ROOST_POOL_KEY_FILE": str(tmp_path / "none")})
    (tmp_path / "key").write_text("secret\n")
    assert settings_from({"ROOST_POOL_KEY_FILE": str(tmp_path / "key")}).installation.pool_key == "secret"
    monkeypatch.delenv("ROOST_POOL_KEY", raising=False)
    assert main() == 2
