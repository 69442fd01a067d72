"""Reasons of a pool's conditions: what each means and what to do about it. Pure.

Conditions, their messages and the documents use these words: `python -m roost_operator.plan.reasons` prints the table,
and a test compares it with docs/troubleshooting.md.
"""

import sys
from enum import StrEnum


class ConditionReason(StrEnum):
    """The reason of a condition. The first one that holds, in this order, decides `Ready`."""

    meaning: str
    """What the reason says, as part of a sentence."""
    fix: str
    """What to do; empty when nothing needs to be done."""

    def __new__(cls, value: str, meaning: str, fix: str = "") -> "ConditionReason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.fix = meaning, fix
        return member

    def message(self, detail: str = "") -> str:
        """A condition's message: `detail`, or else what the reason means, and then what to do."""
        return "; ".join(text for text in (detail.strip() or self.meaning, self.fix) if text)

    DELETING = "Deleting", "the pool is being deleted; workers finish their steps, then everything goes"
    INVALID_SPEC = (
        "InvalidSpec",
        "the spec cannot be read; an older version of the custom resource accepted it",
        "correct the field that the message names",
    )
    INVALID_TEMPLATE = (
        "InvalidTemplate",
        "the pod template cannot be used",
        "change spec.workers.template as the message says",
    )
    CHILD_REFUSED = (
        "ChildRefused",
        "an object of the pool cannot be created: a wrong field in the pod template, a quota, a policy, a taken name",
        "change spec.workers.template, or what forbids the object",
    )
    KUBERAY_MISSING = (
        "KubeRayMissing",
        "the cluster does not have the kind RayService",
        "install the KubeRay operator (helm install kuberay-operator kuberay/kuberay-operator)",
    )
    SECRET_MISSING = (
        "SecretMissing",
        "a Secret, or a key of one, that the spec names is not in the pool's namespace",
        "create it, or correct the name in the spec",
    )
    STORE_UNAVAILABLE = (
        "StoreUnavailable",
        "the session store does not answer, or refuses the login or to write",
        "start Redis, or correct its URL; workers are neither drained nor removed until then",
    )
    SUSPENDING = "Suspending", "the pool is to be suspended; workers finish their steps, then stop"
    SUSPENDED = "Suspended", "no worker runs, sessions are kept", "set spec.suspend to false to go on"
    IMAGE_UNAVAILABLE = (
        "ImageUnavailable",
        "a pod's image cannot be pulled",
        "check the image's name, the registry and the pull secrets",
    )
    UNSCHEDULABLE = (
        "Unschedulable",
        "no node takes a pod: too few GPUs or CPUs, too little memory, or no matching node or volume",
        "add a node that has room, or change resources, node selector, tolerations or cacheClaim in spec.workers",
    )
    MODEL_UNAVAILABLE = (
        "ModelUnavailable",
        "workers cannot load the model: it is not there, not readable or not one that they can serve",
        "correct spec.models[0], or put the files where the message says; workers retry by themselves",
    )
    WORKER_FAILS = (
        "WorkerFails",
        "a pod's container or a worker in it keeps crashing",
        "see the pod's log (kubectl logs); OOMKilled asks for more memory",
    )
    RAY_FAILS = (
        "RayFails",
        "KubeRay refuses the RayService or cannot make its pods, or Ray Serve does not keep the workers up",
        "do as the message says; see the RayService's status and the head's log",
    )
    KUBERAY_SILENT = (
        "KubeRaySilent",
        "the KubeRay operator has not picked up the RayService",
        "check that the KubeRay operator's pod runs and watches the pool's namespace",
    )
    UPGRADING = "Upgrading", "new workers replace the old ones"
    SCALING = "Scaling", "the number of workers changes"
    WORKERS_STARTING = "WorkersStarting", "fewer workers take steps than wanted, and nothing has failed so far"
    CHANGE_HELD = (
        "ChangeHeld",
        "pods or the model are to change and spec.workers.upgrade is None",
        "set spec.suspend to true and to false again, or spec.workers.upgrade to NewCluster or InPlace",
    )
    ALL_WORKERS_READY = "AllWorkersReady", "all workers take steps"
    WORKERS_READY = "WorkersReady", "a worker takes steps"
    NO_WORKER = "NoWorker", "no step can be taken now", "see the reason of Ready"
    WEAK_DURABILITY = (
        "WeakDurability",
        "Redis may lose committed steps or throw sessions away",
        "set what the message says: appendonly yes, appendfsync always, maxmemory-policy noeviction",
    )
    PROMPTS_DIFFER = (
        "PromptsDiffer",
        "prompts differ from those that the model's own chat template writes",
        "see docs/models.md, Limits; nothing needs to be done if the sessions do without what the message names",
    )
    AS_EXPECTED = "AsExpected", "nothing is wrong"


def table() -> str:
    """All reasons as a table in Markdown."""
    rows = [f"| `{reason}` | {reason.meaning} | {reason.fix or 'nothing'} |" for reason in ConditionReason]
    return "\n".join(["| reason | meaning | what to do |", "|---|---|---|", *rows])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
