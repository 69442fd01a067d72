"""Builds `template.json` from a model's tokenizer files: how turns are written and end."""

import json
from pathlib import Path
from typing import Any

from roost_worker.convert.errors import ConvertError
from roost_worker.render.description import TemplateDescription, detect_family

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "</s>")


def describe_template(
    tokenizer_json: str, chat_template: str, bos: str, eos: str, config_eos: int | list[int] | None
) -> TemplateDescription:
    """Describe a model's turns, from `tokenizer.json`, the chat template and the texts of its tokens.

    A turn ends at the tokenizer's or config's end token, and at any other control token that is known to end turns.
    Raise ConvertError when no token ends a turn.
    """
    added = {token["content"]: int(token["id"]) for token in json.loads(tokenizer_json).get("added_tokens", [])}
    ids = {added[text] for text in (eos, *_TURN_ENDS) if text in added}
    ids |= {config_eos} if isinstance(config_eos, int) else set(config_eos or ())
    if not ids:
        raise ConvertError("the tokenizer has no end-of-turn token; name one as eos_token in tokenizer_config.json")
    family = detect_family(chat_template, frozenset(added))
    first = added.get(eos, -1)
    ordered = sorted(ids, key=lambda item: (item != first, item))
    return TemplateDescription(family, chat_template, bos, eos, tuple(ordered))


def read_template(folder: Path) -> str:
    """Return a model folder's chat template: `chat_template.jinja`, or the key in one of the JSON files; or ""."""
    jinja = folder / "chat_template.jinja"
    if jinja.exists():
        return jinja.read_text(encoding="utf-8")
    template = _read(folder / "tokenizer_config.json").get("chat_template") or ""
    if isinstance(template, list):  # several named templates
        named = {item["name"]: item["template"] for item in template}
        template = named.get("default", "")
    return str(template or _read(folder / "chat_template.json").get("chat_template", ""))


def token_text(folder: Path, key: str) -> str:
    """Return the text of `bos_token` or `eos_token` in `tokenizer_config.json`, or an empty string."""
    value = _read(folder / "tokenizer_config.json").get(key)
    return str(value["content"] if isinstance(value, dict) else value or "")


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.exists() else {}
