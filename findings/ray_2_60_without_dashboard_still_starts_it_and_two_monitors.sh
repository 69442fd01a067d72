#!/usr/bin/env bash
# ray 2.60.0 (PyPI): `ray.init(include_dashboard=False, log_to_driver=False)` still starts the dashboard's process, and a
# log monitor and an autoscaler's monitor, too: three Pythons that a local program has no use for.
#
# include_dashboard only decides which modules the dashboard's process loads, log_to_driver only whether the driver
# prints what the log monitor sends; the autoscaler's monitor has no argument at all. `ray start` has an option for
# either monitor, `ray.init` for none. One would guess that what is switched off is not started. Together they take
# 2 s of CPU at each start, as much as the import of torch.
#
# Seen on 2026-12-01: "dashboard.py, log_monitor.py, monitor.py run; 1.5 to 2.5 s of CPU".
# Exit status 0 while it is so. Needs PyPI; takes a minute or two.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "ray[default]==2.60.0" psutil==7.2.2
cat >finding.py <<'SOURCE'
import sys
import tempfile

import psutil
import ray

# Ray's sockets allow about 100 characters.
with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20,
        _node_ip_address="127.0.0.1", _temp_dir=folder,
    )
    scripts, seconds = set(), 0.0
    for process in psutil.Process().children(recursive=True):
        script = next((word.rsplit("/", 1)[-1] for word in process.cmdline() if word.endswith(".py")), "")
        if script in ("dashboard.py", "log_monitor.py", "monitor.py"):
            scripts.add(script)
            times = process.cpu_times()
            seconds += times.user + times.system
    ray.shutdown()
print(f"{', '.join(sorted(scripts))} run; {seconds:.1f} s of CPU")
sys.exit(0 if scripts == {"dashboard.py", "log_monitor.py", "monitor.py"} else 1)
SOURCE
RAY_USAGE_STATS_ENABLED=0 venv/bin/python finding.py || {
	echo "changed"
	exit 1
}
