"""A conversion takes minutes and gigabytes, and is of no use to anybody when who asked for it is gone."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from hub_folder import write_hub_folder

LONG_SECONDS = 60.0
"""Far more than anything here takes."""
PREPARE = """
import sys
from pathlib import Path
from roost_worker.convert.store import ModelStore

ModelStore(Path(sys.argv[1])).prepare(f"file://{sys.argv[2]}", "float32")
"""


def test_a_conversion_dies_with_its_parent(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_hub_folder(source, tmp_path / "other")
    template = source / "chat_template.jinja"
    template.unlink()
    os.mkfifo(template)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", PREPARE, str(tmp_path / "cache"), str(source)]
    with subprocess.Popen(command, env=environment) as parent:
        try:
            with template.open("w"):  # which the converter is reading now, and waits for its end
                converters = psutil.Process(parent.pid).children()
                parent.kill()
                _, alive = psutil.wait_procs(converters, timeout=LONG_SECONDS)
        finally:
            parent.kill()
    assert len(converters) == 1
    assert alive == []
