"""Pod templates of a pool: Ray's head, and workers of one replica each. Pure."""

from collections.abc import Mapping
from typing import Any

from roost_operator.api.quantity import byte_count, cpus, optional_memory_bytes
from roost_operator.api.spec import GROUP, AgentPool
from roost_operator.plan import names
from roost_operator.plan.installation import Installation
from roost_operator.plan.merge import merged
from roost_operator.plan.template_shape import shape_problem

CACHE_PATH = "/var/cache/roost"
STOP_SECONDS = 30
"""How long a pod may take to stop after its drain."""
GPU = "nvidia.com/gpu"
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # A worker that cannot start is retried for ever, every few seconds, since what it lacks may appear. Serve's default
    # is to give up after three attempts until its configuration changes.
    "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1000000",
    "ROOST_RETRY_SECONDS": "5",
    # A head that keeps its state in Redis waits about a minute for Redis to restart; by default it exits after a few
    # seconds.
    "RAY_num_redis_request_retries": "60",
}
"""Without prestarted processes: a pod runs one replica and its ranks, nothing else."""
REQUESTS = {names.WORKER: {"cpu": "1", "memory": "2Gi"}, names.HEAD: {"cpu": "500m", "memory": "2Gi"}}
"""Default requests of a container. A resource that has only a limit is left out: Kubernetes then requests the limit."""
SHARED = ("command", "env", "envFrom", "image", "imagePullPolicy", "securityContext", "volumeMounts")
"""Fields of the worker's container that the head's gets too. Probes, hooks, arguments, ports are the worker's own."""
Template = dict[str, Any]


class TemplateError(ValueError):
    """`spec.workers.template` cannot be used; the text names the field and the fix."""


def gpus(pool: AgentPool) -> int:
    """GPUs that the template requests for a worker. Raises TemplateError when they do not fit the ranks."""
    asked = int(_usable(pool, names.WORKER).get(GPU, 0))
    ranks = pool.spec.model.tensor_parallel
    if asked not in (0, ranks):
        raise TemplateError(
            f"spec.workers.template: container {names.WORKER} asks for {asked} {GPU}, but each of the {ranks} ranks of "
            f"models[0] needs one; ask for {ranks}, or set tensorParallel to {asked}"
        )
    return asked


def rank_threads(pool: AgentPool) -> int:
    """Threads of each rank's CPU kernels, at least 1: the worker's CPU limit, or else its request, divided among its
    ranks. Torch by itself would take all of the node's cores. Raises TemplateError for an invalid quantity."""
    quantity = _usable(pool, names.WORKER).get("cpu", REQUESTS[names.WORKER]["cpu"])
    try:
        return max(1, int(cpus(quantity) / pool.spec.model.tensor_parallel))
    except ValueError as error:
        raise TemplateError(f"spec.workers.template: container {names.WORKER}, resources, cpu: {error}") from error


def _check_host_memory(pool: AgentPool) -> None:
    """Raises TemplateError when the memory limit of a worker leaves nothing besides kvCache.hostMemory."""
    limit = (_resources(pool, names.WORKER).get("limits") or {}).get("memory")
    wanted = pool.spec.model.kv_cache.host_memory
    if limit is None or not optional_memory_bytes(wanted):
        return
    try:
        limit_bytes = byte_count(str(limit))
    except ValueError as error:
        raise TemplateError(f"spec.workers.template: container {names.WORKER}, resources, memory: {error}") from error
    if optional_memory_bytes(wanted) >= limit_bytes:
        raise TemplateError(
            f"spec.workers.template: container {names.WORKER} has a memory limit of {limit}, which kvCache.hostMemory "
            f"{wanted} of models[0] takes whole; raise the limit or lower hostMemory"
        )


def worker_template(pool: AgentPool, installation: Installation, annotations: Mapping[str, str]) -> Template:
    """Pod template of workers, with `annotations`. Raises TemplateError."""
    drain = pool.spec.workers.drain_timeout_seconds
    _check_host_memory(pool)
    container = {
        **_ray_container(pool, installation, names.WORKER),
        "ports": [
            {"containerPort": names.WORKER_PORT, "name": "worker"},
            {"containerPort": names.METRICS_PORT, "name": "metrics"},
        ],
        "resources": _default_resources(pool, names.WORKER),
        # Without this probe KubeRay asks Serve's proxy, which does not cover the worker's own port.
        "readinessProbe": {"grpc": {"port": names.WORKER_PORT}, "periodSeconds": 2, "failureThreshold": 2},
        "lifecycle": {"preStop": {"exec": {"command": ["python", "-m", "roost_worker.server.pre_stop"]}}},
    }
    base = _template(pool, installation, names.WORKER, container, annotations)
    base["spec"]["terminationGracePeriodSeconds"] = drain + STOP_SECONDS
    result = merged(base, _without_container(pool.spec.workers.template, names.HEAD))
    if result["spec"].get("terminationGracePeriodSeconds", 0) < drain:
        raise TemplateError(
            "spec.workers.template.spec.terminationGracePeriodSeconds is below workers.drainTimeoutSeconds "
            f"({drain}); raise it or leave it out"
        )
    return _hashed(result)


def head_template(pool: AgentPool, installation: Installation, annotations: Mapping[str, str]) -> Template:
    """Pod template of the head, with `annotations`: the workers' image and volumes, its own resources."""
    container = {
        **_ray_container(pool, installation, names.HEAD),
        "ports": [{"containerPort": port, "name": name} for name, port in names.RAY_PORTS.items()],
        "resources": _default_resources(pool, names.HEAD),
    }
    base = _template(pool, installation, names.HEAD, container, annotations)
    return _hashed(merged(base, _for_head(pool.spec.workers.template)))


def check_template(template: Mapping[str, Any]) -> None:
    """Raises TemplateError for what KubeRay or the API server would refuse later or silently drop."""
    unknown = sorted(set(template) - {"metadata", "spec"})
    if unknown:
        raise TemplateError(
            f"spec.workers.template.{unknown[0]} is unknown; use metadata and spec, as in a pod template"
        )
    shape = shape_problem(template)
    if shape:
        raise TemplateError(shape)
    taken = sorted(set(template.get("metadata") or {}) - {"labels", "annotations"})
    if taken:
        raise TemplateError(f"spec.workers.template.metadata.{taken[0]} cannot be given; use labels and annotations")
    containers = (template.get("spec") or {}).get("containers") or []
    if not all(item.get("name") for item in containers):
        raise TemplateError(
            f"spec.workers.template.spec.containers: each needs a name; {names.WORKER} is the worker's own"
        )


def _template(
    pool: AgentPool, installation: Installation, component: str, container: Template, annotations: Mapping[str, str]
) -> Template:
    # The head loads no model, and a claim bound to one node would tie it to the workers' node.
    claim = pool.spec.workers.cache_claim if component == names.WORKER else None
    cache = {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}}
    spec: Template = {
        "serviceAccountName": names.account(pool),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "cache", **cache},
        ],
    }
    if installation.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in installation.pull_secrets]
    return {"metadata": {"labels": names.labels(pool, component), "annotations": dict(annotations)}, "spec": spec}


def _ray_container(pool: AgentPool, installation: Installation, name: str) -> Template:
    return {
        "name": name,
        "image": installation.worker_image,
        "imagePullPolicy": installation.pull_policy,
        "env": _environment(pool, name),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "cache", "mountPath": CACHE_PATH},
        ],
    }


def _default_resources(pool: AgentPool, name: str) -> Template:
    """A container's default resources, which its part of the template is merged over."""
    limits = _resources(pool, name).get("limits") or {}
    return {"requests": {resource: value for resource, value in REQUESTS[name].items() if resource not in limits}}


def _resources(pool: AgentPool, name: str) -> Template:
    """Resources that the template gives a container."""
    return _container(pool.spec.workers.template, name).get("resources") or {}


def _usable(pool: AgentPool, name: str) -> Template:
    """What the template lets a container use of each resource, or else has it request."""
    resources = _resources(pool, name)
    return {**(resources.get("requests") or {}), **(resources.get("limits") or {})}


def _environment(pool: AgentPool, component: str) -> list[Template]:
    plain = {"HOME": "/tmp", "ROOST_CACHE": CACHE_PATH, **RAY_ENVIRONMENT}
    variables: list[Template] = [{"name": name, "value": value} for name, value in plain.items()]
    if component == names.HEAD:
        return variables
    own, given = names.secret(pool), pool.spec.store.url_secret_ref
    store = (given.name, given.key) if given else (own, names.STORE_KEY)
    variables += [
        {"name": "ROOST_POOL", "value": pool.pool},
        {"name": "ROOST_DRAIN_SECONDS", "value": str(pool.spec.workers.drain_timeout_seconds)},
        {"name": "ROOST_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        _from_secret("ROOST_STORE_URL", *store),
        _from_secret("ROOST_POOL_SECRET", own, names.SECRET_KEY),
    ]
    token = pool.spec.model.token_secret_ref
    return [*variables, *([_from_secret("HF_TOKEN", token.name, token.key)] if token else [])]


def _from_secret(variable: str, name: str, key: str) -> Template:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def _for_head(template: Mapping[str, Any]) -> Template:
    """The template for the head: the pod without its sidecars, the shared fields of the worker's container, and what is
    given for the head's own container."""
    spec = {name: value for name, value in (template.get("spec") or {}).items() if name != "containers"}
    worker = {name: value for name, value in _container(template, names.WORKER).items() if name in SHARED}
    container = merged(worker, _container(template, names.HEAD))
    metadata = template.get("metadata") or {}
    return {"metadata": metadata, "spec": {**spec, "containers": [{**container, "name": names.HEAD}]}}


def _without_container(template: Mapping[str, Any], name: str) -> Template:
    spec = template.get("spec") or {}
    kept = [item for item in spec.get("containers") or () if item.get("name") != name]
    return {**template, "spec": {**spec, "containers": kept}}


def _container(template: Mapping[str, Any], name: str) -> Template:
    containers = (template.get("spec") or {}).get("containers") or []
    return next((dict(item) for item in containers if item.get("name") == name), {})


def _hashed(template: Template) -> Template:
    """Adds an annotation with a digest of the tolerations, since KubeRay ignores a change of them alone."""
    tolerations = template["spec"].get("tolerations")
    if not tolerations:
        return template
    return merged(template, {"metadata": {"annotations": {f"{GROUP}/tolerations": names.digest(tolerations)}}})
