"""What the operator reads in a pool's Secrets: the URL of its store, and which Secrets of the spec are missing."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio.connection import parse_url

from roost_operator.api.spec import AgentPool
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Reader
from roost_operator.plan.installation import Installation
from roost_operator.plan.template_shape import shape_problem

RAY_KEY = "ray-url"
"""Key of the URL for Ray's heads, beside the store's URL in the Secret of `spec.store`; optional."""
Key = tuple[str, str]
"""Name of a Secret, and a key in it; an empty key stands for the whole Secret."""


@dataclass(frozen=True, slots=True)
class PoolSecrets:
    """URL of the pool's own store, or of the installation's, and what is missing."""

    store_url: str = field(repr=False)
    problem: str = ""
    """Why the pool's own store cannot be used; then `store_url` is the installation's."""
    own_store_url: str = field(default="", repr=False)
    """`store_url`, when it is of the pool's own store."""
    ray_store_url: str = field(default="", repr=False)
    missing: tuple[str, ...] = ()
    """Secrets, or keys in them, that the spec names and that do not exist."""


async def pool_secrets(api: Reader, pool: AgentPool, installation: Installation) -> PoolSecrets:
    """Read each Secret that the spec names, once. Raises ApiError."""
    wanted = list(dict.fromkeys(named_secrets(pool)))
    namespace = pool.metadata.namespace
    secrets = {name: await api.get(kinds.SECRET, namespace, name) for name in dict.fromkeys(name for name, _ in wanted)}
    missing = tuple(_shown(name, key) for name, key in wanted if not _has(secrets[name], key))
    store = pool.spec.store.url_secret_ref
    if store is None:
        return PoolSecrets(installation.store_url, missing=missing)
    url = secret_value(secrets[store.name], store.key)
    problem = f"{_shown(store.name, store.key)}: {_fault(url)}" if _fault(url) else ""
    ray = secret_value(secrets[store.name], RAY_KEY) or ""
    own = "" if problem or url is None else url
    return PoolSecrets(own or installation.store_url, problem, own, ray, missing)


def named_secrets(pool: AgentPool) -> Iterator[Key]:
    """Iterate over the Secrets without which a worker cannot start: the store's, the hub's, the pod template's."""
    for reference in (pool.spec.store.url_secret_ref, pool.spec.model.token_secret_ref):
        if reference is not None:
            yield reference.name, reference.key
    if shape_problem(pool.spec.workers.template):
        return  # the template is refused as a whole
    spec = pool.spec.workers.template.get("spec") or {}
    for volume in spec.get("volumes") or ():
        secret = volume.get("secret") or {}
        if secret.get("secretName") and not secret.get("optional"):
            yield secret["secretName"], ""
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        yield from _of_container(container)


def _of_container(container: Mapping[str, Any]) -> Iterator[Key]:
    keys = [(entry.get("valueFrom") or {}).get("secretKeyRef") or {} for entry in container.get("env") or ()]
    whole = [entry.get("secretRef") or {} for entry in container.get("envFrom") or ()]
    for reference, key in (*((keyed, keyed.get("key") or "") for keyed in keys), *((secret, "") for secret in whole)):
        if reference.get("name") and not reference.get("optional"):
            yield reference["name"], key


def _has(secret: Mapping[str, Any] | None, key: str) -> bool:
    return secret is not None and (not key or key in (secret.get("data") or {}))


def secret_value(secret: Mapping[str, Any] | None, key: str) -> str | None:
    """Return a value of a Secret, None when it is missing, or an empty text when it is not text."""
    value = ((secret or {}).get("data") or {}).get(key)
    if value is None:
        return None
    try:
        return base64.b64decode(value).decode().strip()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _fault(url: str | None) -> str:
    if url is None:
        return "it is missing"
    try:
        parse_url(url)
    except ValueError:
        return "it is not a URL of Redis; write redis://user:password@host:6379"
    return ""


def _shown(name: str, key: str) -> str:
    return f"Secret {name}, key {key}" if key else f"Secret {name}"
