"""Reads the JSON files of a model's source."""

import json
from pathlib import Path
from typing import Any

from roost_worker.convert.errors import ConvertError


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty without the file. Raise ConvertError when it holds anything else."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path} is not a JSON object: {error}") from error
    if not isinstance(document, dict):
        raise ConvertError(f"{path} is not a JSON object")
    return document
