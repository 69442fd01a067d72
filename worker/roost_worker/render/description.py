"""`template.json`: what rendering needs to know about a model besides its tokenizer. Written by the converter."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

FAMILIES = ("chatml", "qwen3", "llama3", "mistral")
"""Families of turn formats that are built in. A model of another family ("") can only use its own template."""

SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Fields of a step's sampling that a model may have defaults for."""


@dataclass(frozen=True, slots=True)
class TemplateDescription:
    """How a model's turns are written."""

    family: str
    """One of `FAMILIES`, or an empty string."""
    chat_template: str
    """The model's own template, in Jinja; empty if it has none."""
    bos_token: str
    eos_token: str
    eos_token_ids: tuple[int, ...]
    """Ids that end a turn."""
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
        document = {"sampling": {}, **json.loads(path.read_bytes())}
        try:
            values = {field.name: document[field.name] for field in fields(cls)}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a template.json of this version: {error}") from error
        return cls(**{**values, "eos_token_ids": tuple(values["eos_token_ids"])})


def detect_family(chat_template: str, tokens: frozenset[str]) -> str:
    """Return the family whose control tokens the template uses or, without a template, are among `tokens`; or ""."""

    def has(token: str) -> bool:
        return token in chat_template if chat_template else token in tokens

    if has("<|start_header_id|>"):
        return "llama3"
    if has("<|im_start|>"):
        return "qwen3" if has("<think>") else "chatml"
    if has("[INST]") and "[INST]" in tokens:
        return "mistral"
    return ""
