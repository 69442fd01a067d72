"""`template.json`: what rendering needs to know about a model besides its tokenizer. Written by the converter."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_REQUIRED = ("chat_template", "bos_token", "eos_token", "eos_token_ids")


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

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "TemplateDescription":
        """Read `template.json`. Raise ValueError when it is not valid."""
        document: dict[str, Any] = json.loads(path.read_bytes())
        try:
            values = {name: document[name] for name in _REQUIRED}
            values |= {name: document.get(name, "") for name in ("format", "tool_chat_template")}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a template.json of this version: {error}") from error
        return cls(**{**values, "eos_token_ids": tuple(values["eos_token_ids"])})
