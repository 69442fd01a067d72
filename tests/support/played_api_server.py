"""An API server that only tells what is there, for Helm's `lookup`: versions, discovery and given objects."""

import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from kubeconfigs import write_kubeconfig

_KINDS = {
    "/apis/apps/v1": ("statefulsets", "StatefulSet", True),
    "/apis/rbac.authorization.k8s.io/v1": ("clusterroles", "ClusterRole", False),
}


class PlayedApiServer:
    """Serves `objects`, by path, while entered."""

    def __init__(self, objects: Mapping[str, Mapping[str, Any]]) -> None:
        answers = {**_discovery(), **objects}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers.get(self.path.partition("?")[0])
                missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
                body = json.dumps(answer or missing).encode()
                self.send_response(200 if answer else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> "PlayedApiServer":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def kubeconfig(self, path: Path) -> Path:
        """Writes a kubeconfig to `path`."""
        return write_kubeconfig(path, {"server": f"http://127.0.0.1:{self._server.server_port}"}, {})


def _discovery() -> dict[str, dict[str, Any]]:
    answers: dict[str, dict[str, Any]] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
    }
    groups = []
    for path, (plural, kind, namespaced) in _KINDS.items():
        group, version = path.removeprefix("/apis/").split("/")
        group_version = {"groupVersion": f"{group}/{version}", "version": version}
        groups.append({"name": group, "versions": [group_version], "preferredVersion": group_version})
        resource = {"name": plural, "kind": kind, "namespaced": namespaced, "verbs": ["get", "list"]}
        answers[path] = {
            "kind": "APIResourceList",
            "groupVersion": group_version["groupVersion"],
            "resources": [resource],
        }
    answers["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    return answers
