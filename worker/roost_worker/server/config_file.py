"""A WorkerConfig as a plain document (JSON), with the dataclasses' own names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roost.config_document import from_document
from roost_worker.config import WorkerConfig


def config_from(document: Mapping[str, Any]) -> WorkerConfig:
    """Build the config. Raise ValueError naming the field and the fix."""
    return from_document(WorkerConfig, document)


def load_config(path: Path) -> WorkerConfig:
    """Read a JSON file. Raise OSError, and ValueError naming the file, the field and the fix."""
    try:
        return config_from(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
