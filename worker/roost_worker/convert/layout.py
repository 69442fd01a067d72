"""The layout of a prepared model: its files, how its revision is computed, and how it is written atomically."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roost_worker.config import KvDtype, Quantization

TOOL_TEMPLATE = "additional_chat_templates/tool_use.jinja"
"""The only file of a source that is read from a folder in it."""
WEIGHTS = "model.safetensors"
FILES = ("config.json", WEIGHTS, "tokenizer.json", "template.json", "revision.json")
LAYOUT_VERSION = 3
"""Part of every index key: when the layout changes, or what is read of a source, models are converted again."""
ABANDONED_SECONDS = 86_400.0
"""A folder without a write for this long belongs to a conversion that was killed."""


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model in the store. `path` holds the files of `FILES`; `revision` names weights, tokenizer, template, dtype."""

    path: Path
    revision: str
    source: str
    dtype: str

    def revision_in(self, quantization: Quantization, kv_dtype: KvDtype) -> str:
        """Return the revision that is served by workers with this rounding of weights and KV.

        Rounding changes the outputs, so it makes another revision.
        """
        if quantization == "none" and kv_dtype == "auto":
            return self.revision
        kv = "" if kv_dtype == "auto" else f" kv {kv_dtype}"
        return hashlib.sha256(f"{self.revision} {quantization}{kv}".encode()).hexdigest()[:16]


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_files(folder: Path) -> dict[str, Path]:
    """Return the files of a source that may be read, by the names that they have in it, in order."""
    files = {item.name: item for item in sorted(folder.iterdir()) if item.is_file()}
    if (folder / TOOL_TEMPLATE).is_file():
        files[TOOL_TEMPLATE] = folder / TOOL_TEMPLATE
    return files


def digest_source(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return digest_file(path)
    total = hashlib.sha256()
    for name, file in source_files(path).items():
        total.update(f"{name}\0{digest_file(file)}\n".encode())
    return total.hexdigest()


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def scratch_folder(models: Path) -> Iterator[Path]:
    """Create a folder beside the prepared models that is removed afterwards, unless it was renamed."""
    models.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(models)
    scratch = Path(tempfile.mkdtemp(dir=models, prefix=".making-"))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_abandoned(models: Path) -> None:
    """Remove folders of conversions that were killed."""
    for scratch in models.glob(".making-*"):
        with suppress(FileNotFoundError):
            if time.time() - scratch.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(scratch, ignore_errors=True)


def publish(scratch: Path, models: Path, source: str, source_sha256: str, dtype: str) -> PreparedModel:
    """Compute the revision of a complete folder, write `revision.json` into it and rename it into `models`."""
    digests = {name: digest_file(scratch / name) for name in FILES[:-1]}
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    revision = hashlib.sha256(f"{lines}dtype {dtype}\n".encode()).hexdigest()[:16]
    document = {"revision": revision, "source": source, "source_sha256": source_sha256, "dtype": dtype}
    write_json(scratch / "revision.json", {**document, "sha256": digests, "layout": LAYOUT_VERSION})
    path = models / revision
    if not is_complete(path):
        scratch.chmod(0o755)
        _rename(scratch, path)
    return PreparedModel(path, revision, source, dtype)


def _rename(scratch: Path, path: Path) -> None:
    try:
        os.rename(scratch, path)
    except OSError:
        if is_complete(path):  # another process was faster; its content is the same
            return
        shutil.rmtree(path, ignore_errors=True)
        os.rename(scratch, path)


def is_complete(path: Path) -> bool:
    """Return whether a prepared model has all its files."""
    return all((path / name).is_file() for name in FILES)
