"""The next move of a group that grows or shrinks, derived from what is there. Pure.

| wanted, observed | pods | replicas | next |
|---|---|---|---|
| no RayCluster yet | wanted | wanted | all start together |
| wanted > pods | wanted | as before | pods come first |
| wanted = pods, all run | wanted | wanted | Serve fills them |
| wanted < pods, no victim chosen | as before | as before | the cheapest worker is asked to drain |
| wanted < pods, the victim is busy | as before | as before | it finishes its steps, at most the drain time |
| wanted < pods, the victim is idle | one less | as before | the victim's pod goes, and no other |
| wanted = pods, the victim's pod is still there | as before | as before | it goes on draining; KubeRay deletes it |
| wanted = pods, the victim's pod is leaving | as before | as before | Serve, asked now, would choose another one |
| wanted = pods, the victim's pod is gone | wanted | wanted | Serve gives its replica up |
| wanted < pods, somebody deletes a pod | one less | as before | that one is the victim: it goes anyway |
| wanted < pods, a pod is missing | as before | as before | wait for the one that KubeRay creates in its place |
| wanted < pods, none is there yet, or KubeRay cannot create the missing | those there | as before | do not wait |

The group's size is never below the number of pods that KubeRay counts, less those named for deletion with the change:
KubeRay would choose the others itself. It counts pods that somebody else deletes until they are gone. It does not count
pods that it was asked to delete; they stay named as long as they exist.

Several victims may go at once; each drains first. Who drains follows from what is there: a worker that is no longer a
victim is asked to go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from roost_operator.plan.observed import Observed, Pod, Worker, WorkerGroup
from roost_operator.plan.ray_service import Size


@dataclass(frozen=True, slots=True)
class Scale:
    """What to do about the size of a group."""

    size: Size
    drain: frozenset[str] = frozenset()
    """Ids of the workers that are to drain."""
    remove: tuple[str, ...] = ()
    """Pods for KubeRay to delete, named along with the new size."""

    @property
    def settled(self) -> bool:
        """Whether the group has the wanted size."""
        return not self.drain and not self.remove and self.size.pods == self.size.replicas


def scale(
    wanted: int, group: WorkerGroup | None, replicas_now: int | None, observed: Observed, drain_seconds: float
) -> Scale:
    """The next move towards `wanted` workers.

    `group` is the live group, None before there is a RayCluster. `replicas_now` is what Serve is asked for, None when
    its configuration does not say.
    """
    if group is None:
        return Scale(Size(wanted, wanted))
    replicas = wanted if replicas_now is None else replicas_now
    pods = observed.ray.pods_of(group)
    if wanted >= group.replicas:
        return Scale(Size(wanted, _replicas(wanted, replicas, pods)), _victims_still_there(wanted, pods, observed))
    leaving = [pod for pod in pods if pod.name in group.workers_to_delete]
    counted = [pod for pod in pods if pod.name not in group.workers_to_delete]
    if len(counted) < group.replicas:
        stop_waiting = not counted or observed.ray.pod_failure is not None
        size = max(wanted, len(counted)) if stop_waiting else group.replicas
        return Scale(Size(size, replicas), draining(observed.workers_in(pods)))
    victims = choose_victims(counted, observed, len(counted) - wanted)
    drain = frozenset(worker.worker_id for worker in observed.workers_in([*leaving, *victims]))
    going = [pod for pod in victims if pod.deleting or may_go(observed.worker_of(pod), drain_seconds)]
    if not going:
        return Scale(Size(group.replicas, replicas), drain)
    size = min(group.replicas, len(counted) - len(going))
    return Scale(Size(size, replicas), drain, tuple(pod.name for pod in (*leaving, *going)))


def draining(workers: Sequence[Worker]) -> frozenset[str]:
    """Ids of those that were asked to drain."""
    return frozenset(worker.worker_id for worker in workers if worker.drain_seconds is not None)


def _victims_still_there(wanted: int, pods: Sequence[Pod], observed: Observed) -> frozenset[str]:
    """Workers whose pods KubeRay was asked to delete and has not begun to."""
    present = [pod for pod in pods if not pod.deleting]
    return draining(observed.workers_in(present)) if len(present) > wanted else frozenset()


def _replicas(wanted: int, replicas: int, pods: Sequence[Pod]) -> int:
    """Serve's number of replicas once the number of pods is right: up when all run, down when none is leaving."""
    if replicas > wanted:
        return replicas if len(pods) > wanted or any(pod.deleting for pod in pods) else wanted
    alive = sum(pod.running and not pod.deleting for pod in pods)
    return wanted if alive >= wanted else replicas


def choose_victims(pods: Sequence[Pod], observed: Observed, count: int) -> list[Pod]:
    """The `count` pods whose loss costs least: first those that somebody deletes anyway, then those without a worker,
    then those that drain already, then those with the fewest cached tokens."""

    def cost(pod: Pod) -> tuple[bool, bool, bool, int, str]:
        worker = observed.worker_of(pod)
        if worker is None:
            return (not pod.deleting, False, False, 0, pod.name)
        return (not pod.deleting, True, worker.drain_seconds is None, worker.tokens, pod.name)

    return sorted(pods, key=cost)[:count]


def may_go(worker: Worker | None, drain_seconds: float) -> bool:
    """Whether a worker that was asked to drain is idle or out of time. True when there is no worker."""
    if worker is None:
        return True
    if worker.drain_seconds is None:
        return False
    return (worker.draining and worker.running == 0) or worker.drain_seconds >= drain_seconds


def all_may_go(workers: Sequence[Worker], drain_seconds: float) -> bool:
    """Whether the whole pool may stop."""
    return all(may_go(worker, drain_seconds) for worker in workers)
