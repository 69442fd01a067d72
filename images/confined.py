"""A command as a container of the chart would run it, without a container runtime: Linux and root only.

User 65532, no capabilities and no way to get any, a root that cannot be written but for /tmp, no network, and of this
machine's files only the system's, Python's own, and the environment at /opt/roost.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = ("unshare", "mount", "chroot", "setpriv")
APART = ("unshare", "--mount", "--propagation=private", "--net", "--pid", "--fork", "--ipc")
ENVIRONMENT = {"PATH": "/opt/roost/bin:/usr/bin:/bin", "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
"""As the Dockerfiles set it."""
_BUILD_ROOT = """\
root=$1; environment=$2; python=$3; shift 3
mount -t tmpfs -o mode=755 root "$root"
for path in /usr /etc "$python"; do
  mkdir -p "$root$path"; mount --bind "$path" "$root$path"; mount -o remount,bind,ro "$root$path"
done
for path in /bin /sbin /lib /lib64; do [ ! -L "$path" ] || cp -P "$path" "$root$path"; done
mkdir -p "$root/tmp" "$root/proc" "$root/dev"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
for place in /opt/roost "$environment"; do  # scripts name their interpreter by the place where it was made
  mkdir -p "$root$place"; mount --bind "$environment" "$root$place"; mount -o remount,bind,ro "$root$place"
done
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -o remount,ro "$root"
chroot=$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)
exec "$chroot" "$root" setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs --bounding-set=-all \\
  --inh-caps=-all sh -c 'cd /tmp && exec "$@"' sh "$@"
"""


def can_confine() -> bool:
    """Whether this machine lets us; a container without rights of its own does not."""
    if sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)):
        return False
    return subprocess.run([*APART, "true"], capture_output=True, check=False).returncode == 0


def confined(environment: Path, root: Path, command: Sequence[str]) -> list[str]:
    """The whole command line; `environment` is what the image has at /opt/roost, `root` an empty folder to mount on."""
    python = str(Path(sys.base_prefix).resolve())
    return [*APART, "sh", "-euc", _BUILD_ROOT, "sh", str(root), str(environment), python, *command]
