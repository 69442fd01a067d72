"""A real Kubernetes API server for tests: etcd, kube-apiserver and the garbage collector, with RBAC, on loopback.

They are those that `make e2e` builds, or in `$ROOST_CLUSTER_BIN`. Where they are missing, tests are skipped and say so.
"""

import contextlib
import csv
import json
import os
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from built_binaries import built_binary, kuberay_definitions
from kubeconfigs import write_kubeconfig
from redis_servers import free_port
from roost_operator.local.launcher import launched

ROOT = Path(__file__).parents[2]
_NEEDED = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
_ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_MONITORS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podmonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {"plural": "podmonitors", "kind": "PodMonitor"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": _ANYTHING}}],
    },
}
"""PodMonitor, as far as it is needed: Prometheus' operator is no part of what is built here."""
_HOST = "127.0.0.1"
_GO = {"GOGC": "400"}
"""A third of an API server's CPU time at its start, and a seventh in the tests, goes into collecting garbage."""
_START_SECONDS, _POLL_SECONDS = 90.0, 0.1


class KubectlError(RuntimeError):
    """kubectl failed; the text is what it said."""


class ApiServer:
    """Runs while entered. Users are tokens: `admin` may do all, others what RBAC gives them.

    The definitions of AgentPool and PodMonitor, and of KubeRay where they are found, are there before the garbage
    collector, which would see them half a minute later otherwise.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="roost-api-"))
        self.port = free_port()
        self.audit = self.directory / "audit.log"
        self._etcd, self._peer = free_port(), free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._users = [("admin-token", "admin", "admin", "system:masters"), ("gc-token", "gc", "gc", "system:masters")]

    @property
    def url(self) -> str:
        return f"https://{_HOST}:{self.port}"

    def add_user(self, name: str) -> None:
        """A user without rights. Before entering."""
        self._users.append((f"{name}-token", name, name, ""))

    def kubeconfig(self, user: str = "admin") -> Path:
        """A kubeconfig file of `user`."""
        file = self.directory / f"{user}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.directory / "pki" / "apiserver.crt")}
        return write_kubeconfig(file, cluster, {"token": f"{user}-token"})

    def request(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Answer to a request of `admin`, for much less CPU time than kubectl's. Raises HTTPError."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = Request(
            self.url + path,
            data=json.dumps(body).encode() if body else None,
            headers={"Authorization": "Bearer admin-token", "Content-Type": kind},
            method=method,
        )
        trusts = ssl.create_default_context(cafile=self.directory / "pki" / "apiserver.crt")
        with urlopen(request, timeout=_START_SECONDS, context=trusts) as answer:
            content: dict[str, Any] = json.load(answer)
        return content

    def kubectl(self, *arguments: str, stdin: str = "", user: str = "admin") -> str:
        """Output of kubectl. Raises KubectlError with its error."""
        command = [str(built_binary("kubectl")), f"--kubeconfig={self.kubeconfig(user)}", *arguments]
        environment = {**os.environ, **_GO, "HOME": str(self.directory), "KUBECACHEDIR": str(self.directory / "cache")}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise KubectlError(done.stderr.strip())
        return done.stdout

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object. Raises KubectlError."""
        item: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return item

    def requests(self, user: str) -> list[dict[str, Any]]:
        """Audit events of requests of `user` that are complete."""
        lines = self.audit.read_text().splitlines() if self.audit.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [event for event in events if event["user"].get("username") == user]

    def __enter__(self) -> "ApiServer":
        try:
            self._start_etcd()
            self._start_api_server()
            self._apply_definitions()
            self._start_controllers()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills all and removes the folder."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self._processes.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start_etcd(self) -> None:
        peer = f"http://{_HOST}:{self._peer}"
        self._spawn(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls=http://{_HOST}:{self._etcd}",
            f"--advertise-client-urls=http://{_HOST}:{self._etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
        )

    def _start_api_server(self) -> None:
        key, tokens, policy = (self.directory / name for name in ("sa.key", "tokens.csv", "audit.yaml"))
        key.write_bytes(_private_key())
        with tokens.open("w", newline="") as file:
            csv.writer(file).writerows(self._users)
        rules = [{"level": "Request", "omitStages": ["RequestReceived"]}]
        policy.write_text(yaml.safe_dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://{_HOST}:{self._etcd}",
            f"--bind-address={_HOST}",
            f"--secure-port={self.port}",
            f"--cert-dir={self.directory / 'pki'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            f"--token-auth-file={tokens}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--disable-admission-plugins=ServiceAccount",  # no controller makes service accounts for pods here
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",  # as OpenShift has it
            "--endpoint-reconciler-type=none",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit}",
        )
        self._await(lambda: self.kubectl("get", "--raw=/readyz"))
        self._await(lambda: self.kubectl("get", "namespace", "default"))

    def _apply_definitions(self) -> None:
        """Raises KubectlError."""
        kuberay = kuberay_definitions()
        definitions = [kuberay / f"ray.io_{name}.yaml" for name in ("rayservices", "rayclusters")] if kuberay else []
        files = [ROOT / "manifests" / "crds" / "agentpools.yaml", *definitions]
        self.kubectl("apply", "--server-side", *(f"--filename={file}" for file in files))
        self.kubectl("apply", "--server-side", "--filename=-", stdin=yaml.safe_dump(_MONITORS))
        self.await_established("crd", "--all")

    def await_established(self, *definitions: str) -> None:
        """Wait until the API server serves these CRDs. kubectl 1.36 fails, instead of waiting, for one that has no
        conditions yet, so it is asked again. Raises RuntimeError."""
        self._await(lambda: self.kubectl("wait", "--for=condition=Established", *definitions, "--timeout=60s"))

    def _start_controllers(self) -> None:
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig('gc')}",
            "--leader-elect=false",
            "--controllers=garbage-collector-controller,namespace-controller",
            "--secure-port=0",
        )

    def _spawn(self, name: str, *arguments: str) -> None:
        command = launched(str(built_binary(name)), *arguments)
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=os.environ | _GO
                )
            )

    def _await(self, probe: Any) -> None:
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                probe()
                return
            except KubectlError as error:
                if time.monotonic() > end or any(process.poll() is not None for process in self._processes):
                    log = (self.directory / "kube-apiserver.log").read_text()[-4000:]
                    raise RuntimeError(f"the API server is not ready: {error}\n{log}") from error
            time.sleep(_POLL_SECONDS)


def _private_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def missing_binaries() -> list[str]:
    """Names of those that are needed and not found."""
    return [name for name in _NEEDED if built_binary(name) is None]


def skip_without_binaries() -> None:
    """Skips the test where a binary is missing."""
    if missing := missing_binaries():
        pytest.skip(f"no {', '.join(missing)}; run `make binaries`, or set ROOST_CLUSTER_BIN to a folder that has them")


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """One API server for all tests, with the user `operator`; tests use namespaces of their own."""
    skip_without_binaries()
    server = ApiServer()
    server.add_user("operator")
    with server:
        yield server


@pytest.fixture
def namespace(api_server: ApiServer) -> Iterator[str]:
    """A namespace of the test's own. Its pools go at the end, so that no later operator is kept busy with them."""
    name = f"test-{secrets.token_hex(4)}"
    api_server.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    path = f"/apis/roost.dev/v1alpha1/namespaces/{name}/agentpools"
    with contextlib.suppress(HTTPError):  # a server without our CRD knows no pools
        for pool in api_server.request("GET", path)["items"]:
            url = f"{path}/{pool['metadata']['name']}"
            api_server.request("DELETE", url)
            with contextlib.suppress(HTTPError):  # gone already when nobody had set a finalizer
                api_server.request("PATCH", url, {"metadata": {"finalizers": None}})
