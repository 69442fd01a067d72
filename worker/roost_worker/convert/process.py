"""Runs the converter in a process of its own, so that a worker never imports transformers. It dies with the worker."""

import json
import subprocess
import tempfile
from pathlib import Path

from roost_worker.child_process import spawn_module
from roost_worker.convert.errors import ConvertError
from roost_worker.convert.progress import Progress
from roost_worker.convert.source import Source

_CONVERTER = "roost_worker.convert.converter"


def run_converter(source: Source, local: Path, dtype: str, target: Path, report: Progress) -> None:
    """Convert `local` (GGUF file or safetensors folder) into `target`. Raise ConvertError with the reason."""
    arguments = (str(local), dtype, str(target))
    with tempfile.TemporaryFile("w+") as errors:
        with spawn_module(_CONVERTER, *arguments, stdout=subprocess.PIPE, stderr=errors) as process:
            try:
                reason = _follow(process, report)
                status = process.wait()
            finally:
                process.kill()
        if reason or status != 0:
            errors.seek(0)
            raise ConvertError(f"{source}: {reason or _crash(status, errors.read())}")


def _follow(process: "subprocess.Popen[bytes]", report: Progress) -> str:
    """Pass the converter's JSON lines on as progress; return why it failed, or an empty string."""
    assert process.stdout is not None
    reason = ""
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # printed by a library
        if "error" in event:
            reason = str(event["error"])
        else:
            report(str(event["stage"]), float(event["fraction"]))
    return reason


def _crash(status: int, errors: str) -> str:
    lines = errors.strip().splitlines()
    hint = " (killed: out of memory?)" if status == -9 else ""
    return f"the converter ended with status {status}{hint}: {lines[-1] if lines else 'no message'}"
