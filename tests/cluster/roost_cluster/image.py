"""The one local image: the sandbox process, busybox, and a skeleton on which pods mount the host's programs."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from roost_cluster.errors import ClusterError
from roost_cluster.layout import IMAGE

FOLDERS = ("usr", "etc", "proc", "sys", "dev", "run", "root", "opt", "var", "home", "mnt")
LINKS = ("bin", "sbin", "lib", "lib64")
FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/bash\nroost:x:65532:65532::/tmp:/bin/false\n"
    b"nobody:x:65534:65534::/:/bin/false\n",
    "etc/group": b"root:x:0:\nroost:x:65532:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
}
ENVIRONMENT = [
    "HOME=/tmp",
    "LANG=C.UTF-8",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
]
BUSYBOX = Path("/bin/busybox")


def build_image(archive: Path, pause_source: Path) -> None:
    """Writes the image as a docker-archive. Raises ClusterError when the sandbox process does not compile."""
    with tempfile.TemporaryDirectory() as folder:
        pause = Path(folder) / "pause"
        command = ["gcc", "-Os", "-static", "-s", "-o", str(pause), str(pause_source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr}")
        layer = _layer({"pause": pause.read_bytes(), "busybox": BUSYBOX.read_bytes()})
    _write_archive(archive, layer)


def _layer(programs: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in FOLDERS:
            _add(tar, name, kind=tarfile.DIRTYPE)
        for name in ("tmp", "var/tmp"):
            _add(tar, name, kind=tarfile.DIRTYPE, mode=0o1777)
        for name in LINKS:
            _add(tar, name, kind=tarfile.SYMTYPE, link=f"usr/{name}")
        for name, data in programs.items():
            _add(tar, name, data)
        for name, data in FILES.items():
            _add(tar, name, data, mode=0o644)
    return buffer.getvalue()


def _write_archive(archive: Path, layer: bytes) -> None:
    digest = hashlib.sha256(layer).hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    configuration = {
        "architecture": machine,
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "WorkingDir": "/", "Env": ENVIRONMENT},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "roost_cluster.image"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        _add(tar, "layer.tar", layer, mode=0o644)
        _add(tar, "config.json", json.dumps(configuration).encode(), mode=0o644)
        _add(tar, "manifest.json", json.dumps(manifest).encode(), mode=0o644)


def _add(
    tar: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    *,
    mode: int = 0o755,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.type, entry.linkname, entry.size = mode, kind, link, len(data)
    tar.addfile(entry, io.BytesIO(data))
