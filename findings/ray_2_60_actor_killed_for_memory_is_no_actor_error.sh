#!/usr/bin/env bash
# ray 2.60.0 (PyPI): calls of an actor that Ray's memory monitor has killed raise `OutOfMemoryError`, which is not a
# `RayActorError`, although the actor has ended for good (max_restarts=0).
#
# An actor that ends by itself or by a signal gives `ActorDiedError`, and `RayActorError` is documented as the base class
# of all errors of actors that died. A kill for the node's memory gives the error of killed tasks instead, of another
# family; not only the call that ran gets it, but each later call, too. So a supervisor that replaces actors on
# `except RayActorError` never replaces one that was killed for memory.
#
# Seen on 2026-12-01: "a signal: ActorDiedError, a RayActorError / the memory monitor: OutOfMemoryError, no RayActorError /
# a later call: OutOfMemoryError, no RayActorError".
# Exit status 0 while it is so. Needs PyPI; takes a minute or two.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "ray==2.60.0"
cat >finding.py <<'SOURCE'
import os
import signal
import sys
import tempfile
import time

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError


class Waiting:
    """An actor whose call takes as long as it lives."""

    def pid(self):
        return os.getpid()

    def wait(self):
        time.sleep(600)


def error_of(call):
    try:
        ray.get(call, timeout=60)
    except GetTimeoutError:
        raise
    except Exception as error:
        return error
    raise AssertionError("the call returned")


def started(threshold):
    """A Ray of its own, whose memory monitor kills above `threshold` of the machine's memory."""
    os.environ["RAY_memory_usage_threshold"] = str(threshold)
    folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20,
        _node_ip_address="127.0.0.1", _temp_dir=folder.name, _system_config={"memory_monitor_refresh_ms": 100},
    )
    return folder


errors = {}
with started(1.0):
    actor = ray.remote(Waiting).remote()
    pid = ray.get(actor.pid.remote())
    call = actor.wait.remote()
    os.kill(pid, signal.SIGKILL)
    errors["a signal"] = error_of(call)
    ray.shutdown()
with started(0.001):
    actor = ray.remote(Waiting).remote()
    errors["the memory monitor"] = error_of(actor.wait.remote())
    errors["a later call"] = error_of(actor.pid.remote())
    ray.shutdown()
for cause, error in errors.items():
    family = "a" if isinstance(error, RayActorError) else "no"
    print(f"{cause}: {type(error).__name__}, {family} RayActorError")
is_so = isinstance(errors["a signal"], RayActorError) and isinstance(errors["the memory monitor"], OutOfMemoryError)
sys.exit(0 if is_so and not isinstance(errors["the memory monitor"], RayActorError) else 1)
SOURCE
RAY_USAGE_STATS_ENABLED=0 venv/bin/python finding.py || {
	echo "changed"
	exit 1
}
