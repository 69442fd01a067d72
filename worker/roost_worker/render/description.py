"""`template.json`: what rendering needs to know about a model besides its tokenizer. Written by the converter."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_REQUIRED = ("chat_template", "bos_token", "eos_token", "eos_token_ids")

SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Fields of a step's sampling that a model may have defaults for."""


@dataclass(frozen=True, slots=True)
class TemplateDescription:
    """How a model's turns are written."""

    chat_template: str
    """The model's own template, in Jinja; empty if it has none."""
    bos_token: str
    eos_token: str
    eos_token_ids: tuple[int, ...]
    """Ids that end a turn."""
    format: str = ""
    """Name of the turn-and-tool format (`formats.FORMATS`); empty in files of older versions, whose format is chosen
    when the model is loaded."""
    tool_chat_template: str = ""
    """The model's own template for sessions with tools; empty if it has no other one for them."""
    sampling: Mapping[str, float] = field(default_factory=dict)
    """The model's defaults, by name of `SAMPLING_FIELDS`; a field that it has none for is left out."""

    def save(self, path: Path) -> None:
        document = asdict(self)
        if not self.sampling:
            del document["sampling"]  # as before there were defaults: the file is part of the model's revision
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "TemplateDescription":
        """Read `template.json`. Raise ValueError when it is not valid."""
        document: dict[str, Any] = json.loads(path.read_bytes())
        try:
            values = {name: document[name] for name in _REQUIRED}
            values |= {name: document.get(name, "") for name in ("format", "tool_chat_template")}
            values["sampling"] = document.get("sampling", {})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a template.json of this version: {error}") from error
        return cls(**{**values, "eos_token_ids": tuple(values["eos_token_ids"])})
