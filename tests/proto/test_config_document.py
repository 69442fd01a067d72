"""Configuration from documents: values by their annotations, and messages that name the field."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from roost.config_document import from_document


@dataclass(frozen=True)
class Part:
    size: float = 1.0
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Config:
    name: str
    mode: Literal["fast", "exact"] = "fast"
    part: Part = field(default_factory=Part)
    limit: int | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    verbose: bool = False


def test_a_document_becomes_what_the_annotations_say() -> None:
    document = {"name": "a", "part": {"size": 2, "files": ["x", "/y"]}, "limit": None, "secrets": {"p": "s"}}
    part = Part(2, (Path("/etc/x"), Path("/y")))
    assert from_document(Config, document, folder=Path("/etc")) == Config("a", part=part, secrets={"p": "s"})


def test_a_path_without_a_folder_stays_as_it_is() -> None:
    assert from_document(Part, {"files": ["x"]}).files == (Path("x"),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": {"siz": 1}}, "part.siz is unknown; did you mean part.size?"),
        ({7: 1}, "7 is unknown; known are name, mode"),
        ({"name": 5}, "name must be text, not 5"),
        ({"limit": 1.5}, "limit must be a whole number or null, not 1.5"),
        ({"limit": True}, "limit must be a whole number or null, not True"),
        ({"verbose": 1}, "verbose must be true or false, not 1"),
        ({"mode": 1}, "mode must be text, not 1"),
        ({"part": None}, "part must be an object of size, files"),
        ({"part": {"files": "x"}}, "part.files must be a list, not 'x'"),
        ({"part": {"files": ["x", 1]}}, "part.files[1] must be a path, not 1"),
        ({"secrets": ["s"]}, "secrets must be an object, not ['s']"),
        ({"secrets": {"p": 1}}, "secrets.p must be text, not 1"),
    ],
)
def test_a_wrong_field_is_named_with_the_fix(change: dict[object, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        from_document(Config, {"name": "a", **change})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="pool: name is missing"):
        from_document(Config, {}, prefix="pool: ")
