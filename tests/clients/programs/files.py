"""The tool that the Python programs offer, and where they find Roost."""

import os
from pathlib import Path

BASE_URL = os.environ["ROOST_BASE_URL"]
MODEL = "played"
SYSTEM, TASK = "You read files.", "Read a.txt, b.txt and c.txt, and tell me the numbers that they hold."
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}


def read(path: str) -> str:
    """Read a file."""
    return (Path(os.environ["ROOST_REPOSITORY"]) / path).read_text()
