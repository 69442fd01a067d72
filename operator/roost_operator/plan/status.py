"""The status of a pool and the events of its changes, derived from what was observed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from roost_operator.api.deprecations import deprecations
from roost_operator.api.limits import remaining
from roost_operator.api.spec import AgentPool
from roost_operator.plan import names
from roost_operator.plan.conditions import Facts, conditions
from roost_operator.plan.observed import Observed, Worker
from roost_operator.plan.revision import is_upgrading, newest_workers
from roost_operator.plan.troubles import troubles


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes event about the pool."""

    kind: str
    """Normal or Warning."""
    reason: str
    message: str


def facts_of(
    pool: AgentPool, observed: Observed, desired: int, template: str, *, upgrading: bool, **changes: Any
) -> Facts:
    """What the conditions are derived from. `template` says what is wrong with the pod template; `changes` are further
    fields of `Facts`."""
    newest = _taking_steps(newest_workers(observed))
    return Facts(
        desired=desired,
        ready=max(newest, min(desired, _taking_steps(observed.workers))),
        newest=newest,
        deleting=observed.pool.deleted_at is not None,
        unreadable=observed.pool.unreadable,
        template=template,
        refused=observed.refused,
        kuberay=observed.ray.installed,
        missing_secrets=observed.secrets.missing,
        store=observed.store.problem,
        weaknesses=observed.store.weaknesses,
        suspend=pool.spec.suspend,
        limits=_limits(pool, newest_workers(observed) or observed.workers),
        upgrading=upgrading or is_upgrading(observed),
        **changes,
        **asdict(troubles(observed, desired)),
    )


def pool_status(pool: AgentPool, observed: Observed, facts: Facts, revision: str) -> dict[str, Any]:
    """The whole status. Numbers of sessions stay as they were when they were not counted this time."""
    before, generation = observed.pool.status, observed.pool.generation
    selector = names.selector(pool, names.WORKER)
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": conditions(facts, before.get("conditions") or [], generation, observed.now),
        "activeRevision": revision,
        "workers": {"desired": facts.desired, "ready": facts.ready, "replicas": len(observed.ray.pods)},
        "selector": ",".join(f"{name}={value}" for name, value in sorted(selector.items())),
    }
    if observed.sessions is not None:
        status["sessions"] = dict(zip(("hot", "warm", "cold"), observed.sessions, strict=True))
    elif "sessions" in before:
        status["sessions"] = before["sessions"]
    deprecated = list(deprecations(pool))
    if deprecated or "deprecations" in before:
        status["deprecations"] = deprecated
    return status


def is_settled(status: Mapping[str, Any]) -> bool:
    """Whether nothing is wrong with the pool and nothing of it is about to change."""
    by_type = _by_type(status)
    return all(by_type.get(kind, {}).get("status") == "False" for kind in ("Progressing", "Degraded"))


def transitions(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Event, ...]:
    """An event for each new reason of Ready, for a condition Degraded that came or went, for new limits of the model,
    and for each deprecated field that the status did not list before."""
    old, new = _by_type(before), _by_type(after)
    events = []
    for kind in ("Ready", "Degraded"):
        was, now = old.get(kind, {}), new.get(kind, {})
        same = (was.get("status"), was.get("reason")) == (now.get("status"), now.get("reason"))
        if not same and not (kind == "Degraded" and (not was or now["reason"] == new["Ready"]["reason"])):
            bad = new["Degraded"]["status"] == "True"
            events.append(Event("Warning" if bad else "Normal", now["reason"], now["message"]))
    limited = new.get("ModelLimited", {})
    if limited.get("status") == "True" and limited["message"] != old.get("ModelLimited", {}).get("message"):
        events.append(Event("Warning", limited["reason"], limited["message"]))
    known = before.get("deprecations") or ()
    events += [Event("Warning", "DeprecatedField", text) for text in after.get("deprecations", ()) if text not in known]
    return tuple(events)


def _by_type(status: Mapping[str, Any]) -> dict[str, Any]:
    return {condition["type"]: condition for condition in status.get("conditions") or ()}


def _limits(pool: AgentPool, workers: Sequence[Worker]) -> tuple[str, ...] | None:
    """The model's limits by what any of the workers says; None without workers."""
    return remaining(pool, (limit for worker in workers for limit in worker.limits)) if workers else None


def _taking_steps(workers: Sequence[Worker]) -> int:
    """How many of them take steps."""
    return sum(not worker.draining and worker.drain_seconds is None for worker in workers)
