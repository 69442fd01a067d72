"""One step of growing or shrinking a pool, derived from what is there. Pure.

| wanted, seen | pods | replicas | next |
|---|---|---|---|
| no RayCluster yet | wanted | wanted | all start together |
| wanted > pods | wanted | as before | pods come first |
| wanted = pods, all run | wanted | wanted | Serve fills them |
| wanted < pods, no victim chosen | as before | as before | the cheapest worker is told to drain |
| wanted < pods, the victim is busy | as before | as before | it finishes its steps, at most the drain time |
| wanted < pods, the victim is idle | one less | as before | the victim's pod goes, and no other |
| wanted = pods, the victim's pod is still there | as before | as before | it goes on draining; KubeRay deletes it |
| wanted = pods, the victim's pod is leaving | as before | as before | Serve, asked now, would choose another one |
| wanted = pods, the victim's pod is gone | wanted | wanted | Serve gives its replica up |
| wanted < pods, somebody deletes a pod | one less | as before | that one is the victim: it goes anyway |
| wanted < pods, a pod is missing | as before | as before | wait for the one that KubeRay makes in its place |
| wanted < pods, none is there yet, or KubeRay cannot make the missing | those there | as before | they need not come |

The RayCluster's size is never less than the pods that KubeRay counts without those named with it: it would choose some
itself. It counts pods that somebody else deletes until they are gone, and does not count those that it is told to
delete, which are named as long as they are there.

Several victims may go at once; each is drained before. Who is told to drain follows from what is there: a worker that
is no victim any more is told to go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roost_operator.plan.observed import Observed, Pod, Worker
from roost_operator.plan.ray_service import Size


@dataclass(frozen=True, slots=True)
class Scale:
    """What to do about the number of workers."""

    size: Size
    drain: frozenset[str] = frozenset()
    """Workers that are to be draining."""
    remove: tuple[str, ...] = ()
    """Pods to name with this change of size: KubeRay deletes them."""

    @property
    def settled(self) -> bool:
        return not self.drain and not self.remove and self.size.pods == self.size.replicas


def scale(wanted: int, pods_now: int | None, replicas_now: int | None, seen: Observed, drain_seconds: float) -> Scale:
    """`pods_now` is the size of the live RayCluster, `replicas_now` what Serve is asked for; None: there is none."""
    if pods_now is None:
        return Scale(Size(wanted, wanted))
    replicas = wanted if replicas_now is None else replicas_now
    pods = seen.cluster_pods
    if wanted >= pods_now:
        return Scale(Size(wanted, _replicas(wanted, replicas, pods)), _still_there(wanted, pods, seen))
    named = told_to_go(seen)
    leaving = [pod for pod in pods if pod.name in named]
    counted = [pod for pod in pods if pod.name not in named]
    if len(counted) < pods_now:
        size = max(wanted, len(counted)) if not counted or _makes_no_pods(seen) else pods_now
        return Scale(Size(size, replicas), _told(pods, seen))
    victims = choose_victims(counted, seen, len(counted) - wanted)
    gone = [pod for pod in victims if pod.deleting or may_go(seen.worker_of(pod), drain_seconds)]
    drain = frozenset(worker.worker_id for pod in (*leaving, *victims) if (worker := seen.worker_of(pod)))
    if not gone:
        return Scale(Size(pods_now, replicas), drain)
    size = min(pods_now, len(counted) - len(gone))
    return Scale(Size(size, replicas), drain, tuple(pod.name for pod in (*leaving, *gone)))


def told_to_go(seen: Observed) -> frozenset[str]:
    """Pods that KubeRay has been told to delete; most of them are gone."""
    groups: Sequence[Mapping[str, Any]] = ((seen.cluster or {}).get("spec") or {}).get("workerGroupSpecs") or [{}]
    return frozenset((groups[0].get("scaleStrategy") or {}).get("workersToDelete") or ())


def _makes_no_pods(seen: Observed) -> bool:
    """Whether KubeRay says so of the RayCluster, as it does when a quota is exceeded."""
    told = ((seen.cluster or {}).get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "ReplicaFailure" and one.get("status") == "True" for one in told)


def _told(pods: Sequence[Pod], seen: Observed) -> frozenset[str]:
    """Workers in `pods` that drain already."""
    workers = (seen.worker_of(pod) for pod in pods)
    return frozenset(one.worker_id for one in workers if one and one.drain_seconds is not None)


def _still_there(wanted: int, pods: Sequence[Pod], seen: Observed) -> frozenset[str]:
    """Victims whose pods KubeRay has been told to delete, and has not yet begun to."""
    present = [pod for pod in pods if not pod.deleting]
    return _told(present, seen) if len(present) > wanted else frozenset()


def _replicas(wanted: int, replicas: int, pods: Sequence[Pod]) -> int:
    """Serve's number once the number of pods is right: up when all run, down when none is leaving."""
    if replicas > wanted:
        return replicas if len(pods) > wanted or any(pod.deleting for pod in pods) else wanted
    alive = sum(pod.running and not pod.deleting for pod in pods)
    return wanted if alive >= wanted else replicas


def choose_victims(pods: Sequence[Pod], seen: Observed, count: int) -> list[Pod]:
    """The pods whose loss costs least: those that somebody deletes anyway, then those without a worker, then those
    already told to drain, then the fewest cached tokens."""

    def cost(pod: Pod) -> tuple[bool, bool, bool, int, str]:
        worker = seen.worker_of(pod)
        if worker is None:
            return (not pod.deleting, False, False, 0, pod.name)
        return (not pod.deleting, True, worker.drain_seconds is None, worker.tokens, pod.name)

    return sorted(pods, key=cost)[:count]


def may_go(worker: Worker | None, drain_seconds: float) -> bool:
    """Whether a worker that was told to drain has nothing left to lose, or has had its time."""
    if worker is None:
        return True
    if worker.drain_seconds is None:
        return False
    return (worker.draining and worker.running == 0) or worker.drain_seconds >= drain_seconds


def all_may_go(workers: Sequence[Worker], drain_seconds: float) -> bool:
    """Whether the whole pool may stop."""
    return all(may_go(worker, drain_seconds) for worker in workers)
