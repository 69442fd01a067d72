"""Builds `template.json` from a model's tokenizer files: how turns are written and end."""

import json
from pathlib import Path

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.json_file import read_object
from roost_worker.convert.layout import TOOL_TEMPLATE
from roost_worker.render.choice import choose_format
from roost_worker.render.description import TemplateDescription

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "</s>")


def describe_template(
    tokenizer_json: str,
    chat_template: str,
    bos: str,
    eos: str,
    config_eos: int | list[int] | None,
    tool_chat_template: str = "",
) -> TemplateDescription:
    """Describe a model's turns, from `tokenizer.json`, its chat templates and the texts of its tokens.

    A turn ends at the tokenizer's or config's end token, and at any other control token that is known to end turns.
    Raise ConvertError when no token ends a turn.
    """
    added = {token["content"]: int(token["id"]) for token in json.loads(tokenizer_json).get("added_tokens", [])}
    ids = {added[text] for text in (eos, *_TURN_ENDS) if text in added}
    ids |= {config_eos} if isinstance(config_eos, int) else set(config_eos or ())
    if not ids:
        raise ConvertError("the tokenizer has no end-of-turn token; name one as eos_token in tokenizer_config.json")
    known = choose_format(tool_chat_template or chat_template, bos, eos, frozenset(added))
    first = added.get(eos, -1)
    ordered = sorted(ids, key=lambda item: (item != first, item))
    return TemplateDescription(chat_template, bos, eos, tuple(ordered), known.name, tool_chat_template)


def read_template(folder: Path) -> str:
    """Return a model folder's chat template: `chat_template.jinja`, or the key in one of the JSON files; or ""."""
    jinja = folder / "chat_template.jinja"
    if jinja.exists():
        return jinja.read_text(encoding="utf-8")
    return _named_templates(folder).get("default", "")


def read_tool_template(folder: Path) -> str:
    """Return the template `tool_use` of a model folder, for sessions with tools; or "" if it has none."""
    jinja = folder / TOOL_TEMPLATE
    return jinja.read_text(encoding="utf-8") if jinja.exists() else _named_templates(folder).get("tool_use", "")


def _named_templates(folder: Path) -> dict[str, str]:
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = read_object(folder / name).get("chat_template")
        if isinstance(template, list):
            return {item["name"]: item["template"] for item in template}
        if template:
            return {"default": str(template)}
    return {}


def token_text(folder: Path, key: str) -> str:
    """Return the text of `bos_token` or `eos_token`, or an empty string.

    It is in `tokenizer_config.json`; but, as for transformers, `special_tokens_map.json` comes first beside one of
    before `added_tokens_decoder`.
    """
    config = read_object(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= read_object(folder / "special_tokens_map.json")
    value = config.get(key)
    return str(value["content"] if isinstance(value, dict) else value or "")
