"""The operator as processes: one leads by a Lease, another takes over, one that was stopped past its lease is silent.
They have the rights of the chart and no more."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api_server import ApiServer
from operator_process import Start, tail, until
from redis_servers import RedisServer
from roost.fault_points import DIRECTORY_VARIABLE, OPERATOR_POINTS
from roost_operator.__main__ import main
from roost_operator.kubernetes.settings import SettingsError, settings_from

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "manifests" / "samples" / "pool-dummy.yaml"
MUTATING = ("create", "update", "patch", "delete")


@pytest.fixture
def holder(api_server: ApiServer, namespace: str) -> Callable[[], str]:
    return lambda: str(api_server.get("lease", "roost-operator", namespace)["spec"].get("holderIdentity"))


def has_service(server: ApiServer, namespace: str) -> bool:
    return "deletionTimestamp" not in server.get("rayservice", "dummy", namespace)["metadata"]


def written_by(server: ApiServer, identity: str) -> list[dict[str, Any]]:
    """Requests by which this operator changed anything but the Lease."""
    sent = [event for event in server.requests("operator") if event["userAgent"] == f"roost-operator/{identity}"]
    return [request for request in sent if request["verb"] in MUTATING and request["objectRef"]["resource"] != "leases"]


async def test_one_leads_and_another_takes_over(
    operators: Start, api_server: ApiServer, namespace: str, holder: Callable[[], str]
) -> None:
    first = operators("first", command=True)
    await until("the first operator leads", lambda: holder() == "first", first)
    second = operators("second")
    api_server.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    await until("the pool has a RayService", lambda: has_service(api_server, namespace), first, second)
    for operator, leads in ((first, 1.0), (second, 0.0)):
        await until(
            "it tells",
            lambda operator=operator, leads=leads: operator.figures()["roost_operator_leader"] == leads,
            operator,
        )
        assert json.loads(operator.get(operator.liveness, "/healthz")) == {"stuck": {}}
    first.kill()
    api_server.kubectl("delete", "-n", namespace, "rayservice/dummy", "--wait=false")
    await until("the second operator leads", lambda: holder() == "second", second)
    await until("the RayService is back", lambda: has_service(api_server, namespace), second)
    uid = api_server.get("ap", "dummy", namespace)["metadata"]["uid"]
    owners = api_server.get("rayservice", "dummy", namespace)["metadata"]["ownerReferences"]
    assert [owner["uid"] for owner in owners] == [uid]
    second.send(signal.SIGTERM)
    await until("the second operator ends", lambda: second.returncode() is not None, second)
    assert second.returncode() == 0, tail(second.log)
    assert holder() == ""


async def test_a_leader_that_was_stopped_past_its_lease_writes_nothing_more(
    operators: Start, api_server: ApiServer, namespace: str, holder: Callable[[], str], tmp_path: Path
) -> None:
    """It is stopped between two calls of one plan, and has the next one in its hands when it goes on."""
    point = tmp_path / OPERATOR_POINTS[0]
    first = operators("stopped", environment={DIRECTORY_VARIABLE: str(tmp_path)})
    await until("the first operator leads", lambda: holder() == "stopped", first)
    point.write_text("pause:4")
    api_server.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    await until("it is between two calls", point.with_suffix(".done.reached").exists, first)
    first.send(signal.SIGSTOP)
    before = len(written_by(api_server, "stopped"))
    second = operators("other")
    await until("the other leads", lambda: holder() == "other", second)
    await until("the other goes on", lambda: has_service(api_server, namespace), second)
    point.with_suffix(".done.go").touch()
    first.send(signal.SIGCONT)
    await until("the first one ends", lambda: first.returncode() is not None, first, second)
    assert first.returncode() == 1, tail(first.log)
    assert "the lease was not renewed in time" in tail(first.log)
    assert written_by(api_server, "stopped")[before:] == []
    assert holder() == "other"


async def test_an_unchanged_resync_of_many_pools_changes_nothing_and_asks_for_little(
    operators: Start, api_server: ApiServer, namespace: str, redis_server: RedisServer
) -> None:
    """Twenty pools, two resyncs: no mutating request, and each pool's two Secrets are all that is read."""
    pools = [f"pool-{number:02}" for number in range(20)]
    text = SAMPLE.read_text()
    manifests = "---\n".join(text.replace("name: dummy", f"name: {name}") for name in pools)
    operator = operators("resync")
    api_server.kubectl("apply", "-n", namespace, "-f", "-", stdin=manifests)

    def unchanged() -> float:
        return operator.figures()['roost_operator_reconcile_seconds_count{result="unchanged"}']

    def all_told() -> bool:
        """What time alone changes, without KubeRay, has changed."""
        statuses = [pool.get("status") or {} for pool in json.loads(listed())["items"]]
        silent = [
            any(condition["reason"] == "KubeRaySilent" for condition in status.get("conditions", ()))
            for status in statuses
        ]
        return len(statuses) == 20 and all(silent) and all("sessions" in status for status in statuses)

    def listed() -> str:
        return api_server.kubectl("get", "ap", "-n", namespace, "-o", "json")

    await until("every pool has its last status", all_told, operator)
    while True:
        settled, seen = operator.figures()["roost_operator_mutating_calls_total"], unchanged()
        await until("a resync passes", lambda seen=seen: unchanged() >= seen + 40, operator)
        if operator.figures()["roost_operator_mutating_calls_total"] == settled:
            break
    # Counted outside of the window in which requests are read, so that each request's reconciliation is among them.
    counted, before = unchanged(), len(api_server.requests("operator"))
    await until("two resyncs pass", lambda: unchanged() >= counted + 40, operator)
    after = [
        request for request in api_server.requests("operator")[before:] if request["objectRef"]["resource"] != "leases"
    ]
    ended = int(unchanged() - counted)
    assert [request["requestURI"] for request in after if request["verb"] in MUTATING] == []
    kinds = [request["objectRef"]["resource"] for request in after if request["verb"] == "get"]
    assert set(kinds) == {"secrets"}
    assert len(kinds) <= 2 * (ended + 20), "two reads for each reconciliation"
    lists = [request["objectRef"]["resource"] for request in after if request["verb"] == "list"]
    assert lists.count("agentpools") == len(lists)
    # Resyncs that come before an earlier one has ended reconcile each pool only once for both lists.
    assert len(lists) <= ended / 2, "a list for each pool instead of one for all"


async def test_a_child_that_goes_is_missed_at_once(operators: Start, api_server: ApiServer, namespace: str) -> None:
    """By its watch: no resync comes in this test."""
    operator = operators("watching", environment={"ROOST_RESYNC_SECONDS": "3600"})
    api_server.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    child = "poddisruptionbudget"
    for _ in range(2):
        await until("it is there", lambda: bool(api_server.get(child, "dummy-worker", namespace)), operator)
        uid = api_server.get(child, "dummy-worker", namespace)["metadata"]["uid"]
        api_server.kubectl("delete", "-n", namespace, f"{child}/dummy-worker")
        await until(
            "it is back",
            lambda uid=uid: api_server.get(child, "dummy-worker", namespace)["metadata"]["uid"] != uid,
            operator,
        )


async def test_a_pool_that_changes_is_seen_at_once(operators: Start, api_server: ApiServer, namespace: str) -> None:
    """By kopf's watch, after the only list of this test."""
    operator = operators("listing", environment={"ROOST_RESYNC_SECONDS": "3600"})

    def listed() -> bool:
        sent = [
            request for request in api_server.requests("operator") if request["userAgent"] == "roost-operator/listing"
        ]
        return any(request["verb"] == "list" and request["objectRef"]["resource"] == "agentpools" for request in sent)

    await until("pools were listed", listed, operator)
    api_server.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    await until("it has a RayService", lambda: has_service(api_server, namespace), operator)


async def test_kopf_runs_the_handlers(operators: Start, api_server: ApiServer, namespace: str) -> None:
    """By its own command, as anybody would who knows kopf."""
    arguments = ["-m", "kopf", "run", "-A", "--standalone", "-m", "roost_operator.kubernetes.handlers"]
    operator = operators("by-kopf", command=True, arguments=arguments)
    api_server.kubectl("apply", "-n", namespace, "-f", str(SAMPLE))
    await until("it has a RayService", lambda: has_service(api_server, namespace), operator)
    operator.send(signal.SIGTERM)
    await until("it ends", lambda: operator.returncode() is not None, operator)
    assert operator.returncode() == 0, tail(operator.log)


def test_settings_name_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="set ROOST_POOL_KEY to at least 32"):
        settings_from({})
    with pytest.raises(SettingsError, match="ROOST_POD_MONITORS: 'maybe' is not allowed; write true or false"):
        settings_from({"ROOST_POOL_KEY": "k", "ROOST_POD_MONITORS": "maybe"})
    with pytest.raises(SettingsError, match="ROOST_POD_MONITOR_LABELS holds no labels; write a JSON object of texts"):
        settings_from({"ROOST_POOL_KEY": "k", "ROOST_POD_MONITOR_LABELS": '{"release": 1}'})
    with pytest.raises(SettingsError, match="ROOST_SCRAPERS holds no peers; write a JSON list of them"):
        settings_from({"ROOST_POOL_KEY": "k", "ROOST_SCRAPERS": '{"podSelector": {}}'})
    with pytest.raises(SettingsError, match="mount the Secret there"):
        settings_from({"ROOST_POOL_KEY_FILE": str(tmp_path / "none")})
    (tmp_path / "key").write_text("secret\n")
    assert settings_from({"ROOST_POOL_KEY_FILE": str(tmp_path / "key")}).installation.pool_key == "secret"
    monkeypatch.delenv("ROOST_POOL_KEY", raising=False)
    assert main() == 2
