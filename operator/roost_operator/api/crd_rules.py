"""CEL rules for what OpenAPI cannot express in the custom resource's schema; each message names the fix. Pure.

Rules are keyed by the path of the object that they are about; `[]` stands for the items of a list.
"""

from collections.abc import Mapping

from roost_operator.api.fields import LONGEST_NAME, POOL_NAME
from roost_operator.api.model_spec import STRICT_NEEDS_KERNELS

MOST_RANKS = 16
"""Devices that one pod can have; all ranks of a worker share a pod in v1alpha1."""

Rule = Mapping[str, str]


def _rule(rule: str, message: str = "", **more: str) -> Rule:
    return {"rule": rule, **({"message": message} if message else {}), **more}


def _gpus_fit_ranks(kind: str) -> Rule:
    """All ranks of a worker are in one pod, and either each has a GPU or none has."""
    gpus = f"c.resources.{kind}['nvidia.com/gpu']"
    asks = f"c.name == 'worker' && has(c.resources) && has(c.resources.{kind})"
    return _rule(
        "!has(self.workers.template.spec) || !has(self.workers.template.spec.containers) || "
        f"self.workers.template.spec.containers.all(c, !({asks} && 'nvidia.com/gpu' in c.resources.{kind}) || "
        f"string({gpus}) in ['0', string(self.models[0].tensorParallel)])",
        f"spec.workers.template: {kind} of container worker must have as many nvidia.com/gpu as "
        "models[0].tensorParallel, one for each rank, or none",
        fieldPath=".workers.template",
    )


RULES: Mapping[str, tuple[Rule, ...]] = {
    "": (
        _rule(
            f"size(self.metadata.name) <= {LONGEST_NAME}",
            f"metadata.name is too long; use at most {LONGEST_NAME} characters, since KubeRay takes no longer name",
        ),
        _rule(
            f"self.metadata.name.matches('{POOL_NAME}')",
            "metadata.name must begin with a lower-case letter and hold only lower-case letters, digits and '-'",
        ),
    ),
    "spec": (
        _rule(
            "self.roles.all(r, r.maxOutputTokensPerStep <= self.models[0].contextTokens)",
            "spec.roles: maxOutputTokensPerStep is above models[0].contextTokens; lower it, or use 0 for no limit",
            fieldPath=".roles",
        ),
        _rule(
            "self.sessions.maxTokens <= self.models[0].contextTokens",
            "spec.sessions.maxTokens is above models[0].contextTokens; lower it, or use 0 for the model's limit",
            fieldPath=".sessions.maxTokens",
        ),
        _gpus_fit_ranks("limits"),
        _gpus_fit_ranks("requests"),
        _rule(
            "!has(self.workers.template.spec) || !has(self.workers.template.spec.terminationGracePeriodSeconds) || "
            "self.workers.template.spec.terminationGracePeriodSeconds >= self.workers.drainTimeoutSeconds",
            "spec.workers.template.spec.terminationGracePeriodSeconds is below workers.drainTimeoutSeconds; raise it "
            "or leave it out",
            fieldPath=".workers.template.spec.terminationGracePeriodSeconds",
        ),
    ),
    "spec.models": (
        _rule("size(self) <= 1", "spec.models: v1alpha1 serves one model per pool; make a pool for each model"),
    ),
    "spec.models[]": (
        _rule(
            f"self.tensorParallel <= {MOST_RANKS}",
            f"tensorParallel is too large: v1alpha1 keeps all ranks of a worker in one pod; use at most {MOST_RANKS}",
            fieldPath=".tensorParallel",
        ),
        _rule(
            "!has(self.tokenSecretRef) || self.source.startsWith('hf://')",
            "tokenSecretRef is for hf:// sources only; remove it",
            fieldPath=".tokenSecretRef",
        ),
        _rule(
            "self.determinism != 'strict' || (self.dtype != 'float64' && self.engine.kernels != 'torch')",
            STRICT_NEEDS_KERNELS,
            fieldPath=".determinism",
        ),
    ),
    "spec.models[].engine": (
        _rule(
            "self.maxBatchTokens >= self.maxRunning",
            "maxBatchTokens is below maxRunning; raise maxBatchTokens or lower maxRunning",
        ),
    ),
    "spec.roles[].repetition": (
        _rule(
            "self.threshold != 1 && self.taskThreshold != 1",
            "thresholds of repetition: 1 would count every step; use at least 2, or 0 for never",
        ),
    ),
    "spec.models[].kvCache.memory": (
        _rule(
            "type(self) == string ? self == 'auto' || string(self).matches('[1-9]') : int(self) > 0",
            "memory must be positive; write for example 512Mi, 4Gi or auto",
        ),
    ),
    "spec.models[].kvCache.hostMemory": (
        _rule(
            "type(self) == string || int(self) >= 0",
            "hostMemory must not be negative; write for example 512Mi, 4Gi, or 0 for none",
        ),
    ),
    "spec.store": (
        _rule(
            "has(self.urlSecretRef) == has(oldSelf.urlSecretRef)"
            " && (!has(self.urlSecretRef) || self.urlSecretRef == oldSelf.urlSecretRef)",
            "spec.store.urlSecretRef cannot change, since the pool's sessions would be lost; make a new pool",
            fieldPath=".urlSecretRef",
        ),
    ),
}
