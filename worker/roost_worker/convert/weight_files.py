"""Which files of a model folder hold its weights, and under which names the decoder's tensors are stored."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.shapes import EMBEDDING, HEAD

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
REPEATED = "consolidated"
"""How the names of Mistral's own files begin, which repeat the weights under other names."""

_T = TypeVar("_T")
_DECODER_OF_WRAPPER = re.compile(r"^(model\.language_model|language_model\.model)\.")
_HEAD_OF_WRAPPER = re.compile(r"^language_model\.lm_head\.")


def tensor_names(stored: Mapping[str, _T], *, wrapped: bool, tied: bool) -> dict[str, _T]:
    """Return `stored`, whose keys are tensors, by the names that a text-only model has.

    `wrapped`: the decoder is a part of a larger model, whose other tensors keep their names. `tied`: head and embedding
    are one tensor, which may be stored under either name.
    """
    named = {_text_only(name) if wrapped else name: value for name, value in stored.items()}
    if tied and EMBEDDING not in named and HEAD in named:
        named[EMBEDDING] = named.pop(HEAD)
    return named


def _text_only(name: str) -> str:
    return _DECODER_OF_WRAPPER.sub("model.", _HEAD_OF_WRAPPER.sub("lm_head.", name))


def read_index(folder: Path) -> dict[str, str]:
    """Return the file of each tensor, by the folder's index; empty without one. Raise ConvertError for a broken index.

    Files are named without a folder.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        files: dict[str, Any] = dict(json.loads(path.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConvertError(f"{path} is not an index of safetensors files: {error}") from error
    wrong = [file for file in files.values() if not isinstance(file, str) or Path(file).name != file]
    if wrong:
        raise ConvertError(f"{path} must map tensors to files beside it, not to {wrong[0]!r}")
    return files


def weight_paths(folder: Path) -> list[Path]:
    """Return the files that hold the weights: the index's, else `model.safetensors`, else every *.safetensors file.

    `REPEATED` ones are left out.
    Raise ConvertError when the folder has no weight file, or lacks one that the index names.
    """
    paths = [folder / name for name in sorted(set(read_index(folder).values()))]
    if not paths and (folder / SINGLE).is_file():
        paths = [folder / SINGLE]
    paths = paths or [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith(REPEATED)]
    if not paths:
        raise ConvertError(f"{folder} has no *.safetensors file")
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ConvertError(f"{folder} has no {missing[0]}, which {INDEX} names")
    return paths
