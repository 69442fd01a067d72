"""helm as tests use it."""

import os
import subprocess

from roost_cluster.cluster import Cluster

SECONDS = 300


class Helm:
    """helm against the cluster, in one namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._command = [str(cluster.toolbox.path("helm")), "--namespace", namespace]
        self._environment = {**os.environ, "KUBECONFIG": str(cluster.kubectl.kubeconfig)}

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        """Output of `helm ARGUMENTS`. Raises AssertionError when it fails and was not to, or the other way round."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr
