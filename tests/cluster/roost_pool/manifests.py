"""The pool of the e2e tests: a sample of the project, told to run this checkout on the cluster for tests."""

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from roost_cluster import host_python
from roost_worker.convert.store import ModelStore

SAMPLE = Path(__file__).parents[3] / "manifests/samples/pool-local.yaml"
CACHE_CLAIM = "models"
NAME = "local"
DRAIN_SECONDS = 20
Manifest = dict[str, Any]


def sample() -> Manifest:
    """The sample, with one worker, a shorter drain, and the volume and the pod template of the cluster for tests."""
    pool: Manifest = yaml.safe_load(SAMPLE.read_text())
    pool["spec"]["workers"] = {
        "replicas": 1,
        "drainTimeoutSeconds": DRAIN_SECONDS,
        "cacheClaim": CACHE_CLAIM,
        "template": template(),
    }
    return pool


def template(**annotations: str) -> Manifest:
    """A partial pod template whose pods run the host's Python. Requests are small, since two nodes' worth of pods share
    two cores while a pool is upgraded; 1 CPU of limit would be shared with Ray, so there is none. A head asks for more,
    since Ray gives a start up after 30 s, which a busy worker beside it would take from it."""
    containers = [_container("worker", "50m", "3Gi"), _container("head", "250m", "2Gi")]
    return {
        "metadata": {"annotations": dict(annotations)},
        "spec": {"volumes": host_python.volumes(), "containers": containers},
    }


def _container(name: str, cpu: str, memory: str) -> Manifest:
    return {
        "name": name,
        "env": host_python.environment(),
        "volumeMounts": host_python.volume_mounts(),
        "resources": {"requests": {"cpu": cpu, "memory": "256Mi"}, "limits": {"memory": memory}},
    }


def fill_model_cache(folder: Path) -> None:
    """Puts the sample's model into `folder` as a worker would have left it there. The weights are links."""
    model = yaml.safe_load(SAMPLE.read_text())["spec"]["models"][0]
    store = ModelStore()
    prepared = store.prepare(model["source"], model["dtype"])
    target = folder / "models" / prepared.revision
    shutil.copytree(prepared.path, target, copy_function=_link)
    shutil.copytree(store.models / "index", folder / "models/index")
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o777)
        elif path.parent.name == "index":
            path.chmod(0o644)  # made by one user only, where there is no fsGroup


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)


def claim() -> Manifest:
    """The claim that the pool's cache is on."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CACHE_CLAIM},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
