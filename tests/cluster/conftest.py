"""One cluster for all e2e tests, and proof that nothing of it stays on the machine."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from roost_cluster.cluster import Cluster, cluster_for_tests
from roost_cluster.host import RULES, firewall
from roost_cluster.layout import Layout


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
