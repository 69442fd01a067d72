"""Static volumes: there is no provisioner, so each claim gets a folder of the node."""

from pathlib import Path
from typing import Any

from roost_cluster.layout import NODE


def static_volume(namespace: str, claim: str, folder: Path, capacity: str = "1Gi") -> dict[str, Any]:
    """The PersistentVolume that the claim `namespace/claim` will bind to. Makes its folder, writable by anyone,
    since a host path knows no fsGroup."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{claim}"},
        "spec": {
            "capacity": {"storage": capacity},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "claimRef": {"namespace": namespace, "name": claim},
            "hostPath": {"path": str(folder), "type": "Directory"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}},
        },
    }
