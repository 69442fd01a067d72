"""A small client of the Kubernetes API over that of `kubernetes.aio`: plain documents, and errors by status."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes import aio as kubernetes_aio
from kubernetes.aio import config as kubernetes_config

from roost_operator.kubernetes.kinds import Kind
from roost_operator.plan.names import FIELD_MANAGER

TIMEOUT_SECONDS = 20
APPLY, JSON_PATCH = "application/apply-patch+yaml", "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
Document = dict[str, Any]


class ApiError(RuntimeError):
    """The API server refused; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Calls of the operator. Each raises ApiError, or OSError and asyncio.TimeoutError when nobody answers."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    async def connect(cls) -> "Api":
        """By the pod's service account, else by KUBECONFIG."""
        try:
            kubernetes_config.load_incluster_config()  # type: ignore[no-untyped-call]  # the client has no types
        except kubernetes_config.ConfigException:
            file = os.environ.get("KUBECONFIG")  # the client reads the variable when it is imported
            await kubernetes_config.load_kube_config(file)  # type: ignore[no-untyped-call]
        return cls(kubernetes_aio.client.ApiClient())

    async def aclose(self) -> None:
        await self._client.close()

    async def knows(self, kind: Kind) -> bool:
        """Whether the cluster has the kind, by the discovery of its group, which everybody may read."""
        try:
            found = await self._call("GET", f"/apis/{kind.api_version}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(one["name"] == kind.plural for one in found["resources"])

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        """An object; None when there is none, or no such kind."""
        try:
            return await self._call("GET", kind.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: Kind, namespace: str = "", labels: Mapping[str, str] | None = None) -> list[Document]:
        """Objects, in one answer; none when there is no such kind."""
        query = [("labelSelector", ",".join(f"{k}={v}" for k, v in labels.items()))] if labels else []
        try:
            found = await self._call("GET", kind.path(namespace), query=query)
        except ApiError as error:
            if error.status == 404:
                return []
            raise
        return list(found["items"])

    async def apply(self, kind: Kind, body: Document) -> Document:
        """Server-side apply; fields that somebody else changed are ours again."""
        metadata = body["metadata"]
        query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
        return await self._call("PATCH", kind.path(metadata["namespace"], metadata["name"]), body, query, APPLY)

    async def patch(
        self, kind: Kind, namespace: str, name: str, body: Any, *, how: str = MERGE_PATCH, subresource: str = ""
    ) -> Document:
        query = [("fieldManager", FIELD_MANAGER)]
        return await self._call("PATCH", kind.path(namespace, name, subresource), body, query, how)

    async def create(self, kind: Kind, namespace: str, body: Document) -> Document:
        return await self._call("POST", kind.path(namespace), body, [("fieldManager", FIELD_MANAGER)])

    async def replace(self, kind: Kind, namespace: str, name: str, body: Document) -> Document:
        return await self._call("PUT", kind.path(namespace, name), body, [("fieldManager", FIELD_MANAGER)])

    async def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Deletes, with what it owns first; one that is gone is deleted."""
        try:
            await self._call("DELETE", kind.path(namespace, name), query=[("propagationPolicy", "Foreground")])
        except ApiError as error:
            if error.status != 404:
                raise

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Sequence[tuple[str, str]] = (),
        content: str = "application/json",
    ) -> Document:
        headers = {"Accept": "application/json", "Content-Type": content}
        request = await self._client.param_serialize(
            method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        answer = await self._client.call_api(*request, _request_timeout=TIMEOUT_SECONDS)
        data = await answer.read()
        text = (data or b"").decode(errors="replace")
        if not 200 <= answer.status <= 299:
            raise ApiError(answer.status, _message(text))
        found: Document = json.loads(text) if text else {}
        return found


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
