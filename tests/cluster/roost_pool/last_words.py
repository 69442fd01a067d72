"""What is printed when a test of the pool fails: objects, events, and the ends of everybody's logs."""

from roost_cluster.errors import ClusterError
from roost_pool.world import World

LINES = 60
_SERVE_LOGS = "tail -n 40 /tmp/ray/session_latest/logs/serve/*.log /tmp/ray/session_latest/logs/raylet.err"


def last_words(world: World) -> str:
    """All of it, as far as it can be had."""
    here = ("--namespace", world.namespace)
    parts = [
        _said(world, "get", "agentpools,rayservices,rayclusters,pods", "--output=wide", *here),
        _said(world, "get", "agentpools", "--output=jsonpath={.items[*].status}", *here),
        _said(world, "get", "rayservices", "--output=jsonpath={.items[*].status}", *here),
        _said(world, "get", "events", "--sort-by=.lastTimestamp", *here)[-6000:],
    ]
    names = _said(world, "get", "pods", "--output=name", *here).split()
    for name in [name for name in names if name.startswith("pod/")]:
        parts.append(f"--- {name}")
        parts.append(_said(world, "logs", name, "--all-containers", f"--tail={LINES}", *here))
        if "-head-" in name or "-worker-" in name:
            parts.append(_said(world, "exec", name, *here, "--", "/bin/bash", "-c", _SERVE_LOGS))
    kuberay = world.cluster.components.get("kuberay-operator")
    if kuberay is not None:
        errors = [line for line in kuberay.log.read_text(errors="replace").splitlines() if '"error"' in line]
        parts += ["--- KubeRay's errors", *errors[-15:]]
    return "\n".join(parts)


def _said(world: World, *arguments: str) -> str:
    try:
        return world.cluster.kubectl.run(*arguments, seconds=30)
    except ClusterError as error:
        return f"({error})"
