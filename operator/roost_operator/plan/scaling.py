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
| wanted < pods, a pod is missing anyway | those there | as before | it need not come back |

Several victims may go at once; each is drained before. Who is told to drain follows from what is there: a worker that
is no victim any more is told to go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from roost_operator.plan.observed import Observed, Pod, Worker
from roost_operator.plan.ray_service import Size


@dataclass(frozen=True, slots=True)
class Scale:
    """What to do about the number of workers."""

    size: Size
    drain: frozenset[str] = frozenset()
    """Workers that are to be draining."""
    remove: tuple[str, ...] = ()
    """Pods to delete with this change of size."""

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
    present = [pod for pod in pods if not pod.deleting]
    missing = pods_now - len(present)
    if missing > 0 and len(present) == len(pods):
        return Scale(Size(max(wanted, pods_now - missing), replicas))
    victims = choose_victims(present, seen, pods_now - wanted)
    gone = tuple(pod.name for pod in victims if may_go(seen.worker_of(pod), drain_seconds))
    drain = frozenset(worker.worker_id for pod in victims if (worker := seen.worker_of(pod)))
    return Scale(Size(pods_now - len(gone), replicas), drain, gone)


def _still_there(wanted: int, pods: Sequence[Pod], seen: Observed) -> frozenset[str]:
    """Victims whose pods KubeRay has been told to delete, and has not yet begun to."""
    present = [pod for pod in pods if not pod.deleting]
    told = (worker for pod in present if (worker := seen.worker_of(pod)) and worker.drain_seconds is not None)
    return frozenset(worker.worker_id for worker in told) if len(present) > wanted else frozenset()


def _replicas(wanted: int, replicas: int, pods: Sequence[Pod]) -> int:
    """Serve's number once the number of pods is right: up when all run, down when none is leaving."""
    if replicas > wanted:
        return replicas if len(pods) > wanted or any(pod.deleting for pod in pods) else wanted
    alive = sum(pod.running and not pod.deleting for pod in pods)
    return wanted if alive >= wanted else replicas


def choose_victims(pods: Sequence[Pod], seen: Observed, count: int) -> list[Pod]:
    """The pods whose loss costs least: those without a worker, then those already told to drain, then the fewest
    cached tokens."""

    def cost(pod: Pod) -> tuple[bool, bool, int, str]:
        worker = seen.worker_of(pod)
        if worker is None:
            return (False, False, 0, pod.name)
        return (True, worker.drain_seconds is None, worker.tokens, pod.name)

    return sorted((pod for pod in pods if not pod.deleting), key=cost)[:count]


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
