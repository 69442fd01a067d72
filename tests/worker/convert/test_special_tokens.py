"""The texts of a model's first and last token are read from its files as transformers reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from hub_folder import write_hub_folder
from roost_worker.convert.errors import ConvertError
from roost_worker.convert.store import ModelStore
from roost_worker.convert.tokenization import token_text

_FIRST, _LAST = "<|endoftext|>", "<|im_end|>"
_OBJECT = {
    "__type": "AddedToken",
    "content": _LAST,
    "lstrip": False,
    "normalized": False,
    "rstrip": False,
    "single_word": False,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    write_hub_folder(folder, tmp_path / "other")
    return folder


@pytest.mark.parametrize(
    ("config", "special"),
    [
        ({"bos_token": _FIRST, "eos_token": _OBJECT}, None),
        ({}, {"bos_token": _FIRST, "eos_token": _LAST}),
        ({"eos_token": _FIRST}, {"eos_token": _OBJECT}),
        ({"bos_token": _FIRST, "eos_token": None}, {"eos_token": _LAST}),
        ({"bos_token": _FIRST, "added_tokens_decoder": {}}, {"bos_token": _LAST, "eos_token": _LAST}),
        (None, {"eos_token": _LAST}),
        (None, None),
    ],
)
def test_they_are_transformers(source: Path, config: dict[str, Any] | None, special: dict[str, Any] | None) -> None:
    from transformers import PreTrainedTokenizerFast

    (source / "tokenizer_config.json").unlink()
    for name, document in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        if document is not None:
            (source / name).write_text(json.dumps(document))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    texts = [token_text(source, key) for key in ("bos_token", "eos_token")]
    assert texts == [tokenizer.bos_token or "", tokenizer.eos_token or ""]


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "chat_template.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_file_that_is_no_object_is_named(source: Path, tmp_path: Path, name: str, content: str) -> None:
    (source / "chat_template.jinja").unlink()
    (source / name).write_text(content)
    with pytest.raises(ConvertError, match=f"{name} is not a JSON object"):
        ModelStore(tmp_path / "cache").prepare(f"file://{source}", "float32")
