"""One cluster for all e2e tests, and proof that nothing of it stays on the machine."""

import os
import secrets
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from roost_cluster.cluster import Cluster, cluster_for_tests
from roost_cluster.host import RULES, firewall
from roost_cluster.layout import Layout
from roost_pool.last_words import last_words
from roost_pool.traffic import Traffic
from roost_pool.world import World

POOL_TESTS = (
    *("installation", "serving", "children", "scaling", "chaos"),
    *("upgrade", "model_change", "suspend", "troubles", "removal"),
)
"""Tests of `test_pool_*.py` in this order: they share one pool, and the last one takes everything away."""
WORLD = pytest.StashKey[World]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = [f"test_pool_{name}.py" for name in POOL_TESTS]
    items.sort(key=lambda item: order.index(item.path.name) + 1 if item.path.name in order else 0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test of the pool tells what the cluster was like."""
    report = yield
    world = item.session.stash.get(WORLD, None)
    if report.failed and world is not None and "world" in getattr(item, "fixturenames", ()):
        report.sections.append(("the cluster", last_words(world)))
    return report


def traces() -> dict[str, list[str]]:
    """What a cluster could leave on the machine: processes, mounts, rules, links, namespaces, cgroups, files."""
    state = str(Layout().state)
    commands = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline")]
    return {
        "processes": [line.decode(errors="replace") for line in commands if state.encode() in line],
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if state in line],
        "links": [path.name for path in Path("/sys/class/net").iterdir() if path.name == Layout().bridge],
        "namespaces": [str(path) for path in Path("/run/netns").glob("cni-*")],
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob("**/kubepods")],
        "rules": [
            line for family in ("iptables", "ip6tables") for line in firewall(family) if any(m in line for m in RULES)
        ],
        "files": [path for path in (state, "/var/lib/kubelet") if Path(path).exists()],
        "sysctls": [
            f"{name}={Path('/proc/sys', name).read_text().strip()}"
            for name in ("net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
        ],
    }


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster of KUBECONFIG, or our own, which must leave the machine as it was."""
    if os.environ.get("KUBECONFIG"):
        with cluster_for_tests() as found:
            yield found
        return
    before = traces()
    with cluster_for_tests() as found:
        yield found
    after = traces()
    assert after == before, f"the cluster left traces: {after}"


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of its own, deleted at the end."""
    name = f"test-{secrets.token_hex(3)}"
    cluster.kubectl.run("create", "namespace", name)
    cluster.kubectl.wait("create", "serviceaccount/default", "--namespace", name)
    yield name
    cluster.kubectl.run("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def world(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> World:
    """The chart, once for all tests of `test_pool_*.py`; each waits until the pool is whole again."""
    if not cluster.own:
        pytest.skip("KUBECONFIG names a cluster that has no local image")
    world = World(cluster, tmp_path_factory.mktemp("world"))
    request.session.stash[WORLD] = world
    world.install()
    return world


@pytest.fixture
async def traffic(world: World, tmp_path: Path) -> AsyncIterator[Traffic]:
    """Clients whose journal is compared with the committed logs when the test ends well."""
    await world.ready()
    async with await world.connect() as client, Traffic.begin(client, tmp_path) as traffic:
        yield traffic
