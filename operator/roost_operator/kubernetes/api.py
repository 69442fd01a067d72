"""A small client of the Kubernetes API over that of `kubernetes.aio`: plain documents, and errors by status."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from kubernetes import aio as kubernetes_aio
from kubernetes.aio import config as kubernetes_config

from roost_operator.kubernetes.kinds import Kind
from roost_operator.plan.names import COMPONENT_LABEL, FIELD_MANAGER, POOL_LABEL

TIMEOUT_SECONDS = 20
JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
APPLY, JSON_PATCH = "application/apply-patch+yaml", "application/json-patch+json"
Document = dict[str, Any]


class ApiError(RuntimeError):
    """The API server refused; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Reader(Protocol):
    """Where observations come from: the API server itself, or what is known of it."""

    async def knows(self, kind: Kind) -> bool: ...

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None: ...

    async def of_pool(self, kind: Kind, namespace: str, pool: str, component: str = "") -> list[Document]: ...


class Api:
    """Calls of the operator. Each raises ApiError, or OSError and TimeoutError when the API server does not answer."""

    def __init__(self, client: Any, guard: Callable[[], None] = lambda: None) -> None:
        """`client` is an `ApiClient` of `kubernetes.aio`."""
        self.client, self.guard = client, guard
        self.on_written: Callable[[Kind, Document], None] = lambda kind, document: None
        """Called with each object that was written, as the API server has it now."""

    def guarded(self, guard: Callable[[], None]) -> "Api":
        """An Api of the same client that calls `guard` before each call that changes something; it raises to forbid
        that."""
        return Api(self.client, guard)

    @classmethod
    async def connect(cls, identity: str = "", kubeconfig: Path | None = None) -> "Api":
        """By the file, else by the pod's service account, else by KUBECONFIG; audit logs show `identity`."""
        configuration = kubernetes_aio.client.Configuration()
        try:
            if kubeconfig is not None:
                raise kubernetes_config.ConfigException
            kubernetes_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # it has no types
        except kubernetes_config.ConfigException:
            file = (
                str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG")
            )  # the client reads the variable when it is imported
            await kubernetes_config.load_kube_config(file, client_configuration=configuration)  # type: ignore[no-untyped-call]
        client = kubernetes_aio.client.ApiClient(configuration)
        client.user_agent = f"{FIELD_MANAGER}/{identity}" if identity else FIELD_MANAGER
        return cls(client)

    async def aclose(self) -> None:
        await self.client.close()

    async def knows(self, kind: Kind) -> bool:
        """Whether the cluster has the kind, by the discovery of its group, which everybody may read."""
        try:
            group = await self._call("GET", f"/apis/{kind.api_version}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(resource["name"] == kind.plural for resource in group["resources"])

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        """Return the object, or None when it or its kind does not exist."""
        try:
            return await self._call("GET", kind.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def select(self, kind: Kind, namespace: str = "", labels: Mapping[str, str] | None = None) -> list[Document]:
        """Return the objects with these labels, of one namespace or of all; none when the kind does not exist."""
        query = [("labelSelector", ",".join(f"{k}={v}" for k, v in labels.items()))] if labels else []
        try:
            answer = await self._call("GET", kind.path(namespace), query=query)
        except ApiError as error:
            if error.status == 404:
                return []
            raise
        return list(answer["items"])

    async def list_at(self, kind: Kind, selector: str = "") -> tuple[list[Document], str]:
        """Return all objects of all namespaces that match a label selector, and the resource version of that list.
        Raises ApiError with status 404 when the kind does not exist."""
        answer = await self._call("GET", kind.path(), query=[("labelSelector", selector)] if selector else [])
        documents = [{"apiVersion": kind.api_version, "kind": kind.kind, **document} for document in answer["items"]]
        return documents, str(answer["metadata"].get("resourceVersion", ""))

    async def of_pool(self, kind: Kind, namespace: str, pool: str, component: str = "") -> list[Document]:
        """Objects of a pool, or of one of its components, by their labels."""
        return await self.select(
            kind, namespace, {POOL_LABEL: pool, **({COMPONENT_LABEL: component} if component else {})}
        )

    async def apply(self, kind: Kind, body: Document) -> Document:
        """Server-side apply; takes back fields that another manager has changed."""
        metadata = body["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"])
        return await self._write(kind, "PATCH", path, body, APPLY, [("force", "true")])

    async def patch(
        self, kind: Kind, namespace: str, name: str, body: Any, *, how: str = MERGE_PATCH, subresource: str = ""
    ) -> Document:
        return await self._write(kind, "PATCH", kind.path(namespace, name, subresource), body, how)

    async def create(self, kind: Kind, namespace: str, body: Document) -> Document:
        return await self._write(kind, "POST", kind.path(namespace), body)

    async def replace(self, kind: Kind, namespace: str, name: str, body: Document) -> Document:
        return await self._write(kind, "PUT", kind.path(namespace, name), body)

    async def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Deletes the object after all that it owns; not an error when it does not exist."""
        self.guard()
        try:
            await self._call("DELETE", kind.path(namespace, name), query=[("propagationPolicy", "Foreground")])
        except ApiError as error:
            if error.status != 404:
                raise

    async def _write(
        self,
        kind: Kind,
        method: str,
        path: str,
        body: Any,
        content: str = JSON,
        query: Sequence[tuple[str, str]] = (),
    ) -> Document:
        self.guard()
        written = await self._call(method, path, body, [("fieldManager", FIELD_MANAGER), *query], content)
        self.on_written(kind, written)
        return written

    async def _call(
        self, method: str, path: str, body: Any = None, query: Sequence[tuple[str, str]] = (), content: str = JSON
    ) -> Document:
        headers = {"Accept": JSON, "Content-Type": content}
        request = await self.client.param_serialize(
            method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        with _no_answer_is_oserror():
            response = await self.client.call_api(*request, _request_timeout=TIMEOUT_SECONDS)
            text = (await response.read() or b"").decode(errors="replace")
        if not 200 <= response.status <= 299:
            raise ApiError(response.status, _message(text))
        answer: Document = json.loads(text) if text else {}
        return answer


@contextmanager
def _no_answer_is_oserror() -> Iterator[None]:
    """Not every error of the HTTP client's connections is an OSError."""
    try:
        yield
    except aiohttp.ClientError as error:
        raise ConnectionError(f"the API server does not answer: {error or type(error).__name__}") from error


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
