"""The model store: `$ROOST_CACHE/models/<revision>/`, filled once per source and dtype."""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roost_worker.cache import default_cache_dir
from roost_worker.config import DTYPES
from roost_worker.convert.errors import ConvertError
from roost_worker.convert.fetch import fetch
from roost_worker.convert.layout import (
    LAYOUT_VERSION,
    PreparedModel,
    digest_source,
    is_complete,
    publish,
    scratch_folder,
    source_files,
    write_json,
)
from roost_worker.convert.process import run_converter
from roost_worker.convert.progress import Progress
from roost_worker.convert.source import Source, parse_source


def _silent(stage: str, fraction: float) -> None:
    pass


class ModelStore:
    """Prepared models in `cache_dir` (None: `$ROOST_CACHE` or `~/.cache/roost`). Safe for several processes at once."""

    def __init__(self, cache_dir: Path | None = None) -> None:
        self.cache_dir = cache_dir or default_cache_dir()
        self.models = self.cache_dir / "models"

    def prepare(self, source: str, dtype: str, progress: Progress | None = None) -> PreparedModel:
        """Return the model of `source` in `dtype`; fetch and convert it unless it is there already.

        `progress` is called with each stage's name and how much of it is done, 0 to 1. For a model that is there, this
        returns at once and imports nothing heavy. Raise ConvertError; an incomplete model is removed.
        """
        parsed = _parse(source, dtype)
        with self._errors_named(source):
            return self._prepare(parsed, dtype, progress or _silent)

    def _prepare(self, parsed: Source, dtype: str, report: Progress) -> PreparedModel:
        if parsed.scheme == "dummy":
            return self._write_dummy(parsed, dtype)
        key = _source_key(parsed, dtype)
        model = self._lookup(key, parsed, dtype)
        if model is None:
            with self._lock(_key("lock", str(parsed)), report):
                model = self._lookup(key, parsed, dtype) or self._convert(parsed, dtype, report)
                self._remember(key, model)
        report("ready", 1.0)
        return model

    def find(self, source: str, dtype: str) -> PreparedModel | None:
        """Return the model of `source` in `dtype` if it is in the store, else None. Raise ConvertError as `prepare`."""
        parsed = _parse(source, dtype)
        with self._errors_named(source):
            if parsed.scheme == "dummy":
                return self._write_dummy(parsed, dtype)
            return self._lookup(_source_key(parsed, dtype), parsed, dtype)

    def is_at_hand(self, source: str, dtype: str) -> bool:
        """Whether `prepare` returns at once, with nothing to fetch or to convert. Raise ConvertError as it does."""
        parsed = _parse(source, dtype)
        with self._errors_named(source):
            return parsed.scheme == "dummy" or self._lookup(_source_key(parsed, dtype), parsed, dtype) is not None

    @contextmanager
    def _errors_named(self, source: str) -> Iterator[None]:
        """Raise ConvertError where a file cannot be read or written."""
        try:
            yield
        except BrokenPipeError:  # of who reports the progress
            raise
        except OSError as error:
            raise ConvertError(
                f"{source}: {error}; check that it can be read, and that {self.cache_dir} (ROOST_CACHE) can be written "
                "and has room for it"
            ) from error

    def _write_dummy(self, source: Source, dtype: str) -> PreparedModel:
        # Every time, since it takes milliseconds and an index would keep a dummy of an earlier version of this code.
        from roost_worker.convert.dummy import write_dummy  # here, since it imports numpy, which no other model needs

        with scratch_folder(self.models) as scratch:
            write_dummy(source.name, dtype, scratch)
            return publish(scratch, self.models, str(source), "", dtype)

    def _convert(self, source: Source, dtype: str, report: Progress) -> PreparedModel:
        local = fetch(source, self.cache_dir / "sources" / _sources_key(source), report)
        report("checking the source", 0.0)
        content = digest_source(local)
        content_key = _key("content", content, dtype)
        model = self._lookup(content_key, source, dtype)
        if model is None:
            with scratch_folder(self.models) as scratch:
                run_converter(source, self._float32_path(content, source) or local, dtype, scratch, report)
                model = publish(scratch, self.models, str(source), content, dtype)
            self._remember(content_key, model)
        return model

    def _float32_path(self, content: str, source: Source) -> Path | None:
        """Return the same model's float32 folder, if any: a cast is as exact as converting, and ten times as fast."""
        model = self._lookup(_key("content", content, "float32"), source, "float32")
        return model.path if model else None

    def _lookup(self, key: str, source: Source, dtype: str) -> PreparedModel | None:
        try:
            revision = str(json.loads((self.models / "index" / f"{key}.json").read_bytes())["revision"])
        except (FileNotFoundError, ValueError, KeyError):
            return None
        path = self.models / revision
        return PreparedModel(path, revision, str(source), dtype) if is_complete(path) else None

    def _remember(self, key: str, model: PreparedModel) -> None:
        index = self.models / "index"
        index.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=index, prefix=".")
        os.close(handle)
        write_json(Path(name), {"revision": model.revision, "source": model.source, "dtype": model.dtype})
        os.replace(name, index / f"{key}.json")

    @contextmanager
    def _lock(self, key: str, report: Progress) -> Iterator[None]:
        locks = self.models / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / key).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report("waiting for another process to prepare this model", 0.0)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _parse(source: str, dtype: str) -> Source:
    parsed = parse_source(source)
    if dtype not in DTYPES:
        raise ConvertError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    if dtype == "float64" and parsed.scheme != "dummy":
        raise ConvertError(f"{source}: float64 is for dummy:// models only; use bfloat16 or float32")
    return parsed


def _key(*parts: str) -> str:
    return _digest(str(LAYOUT_VERSION), *parts)


def _source_key(source: Source, dtype: str) -> str:
    return _key("source", str(source), _stamp(source), dtype)


def _sources_key(source: Source) -> str:
    """Return the folder of a source's downloads. It outlives layouts: what was downloaded is not downloaded again."""
    return _digest("1", "fetch", str(source))[:16]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _stamp(source: Source) -> str:
    """Return a value that changes when a local source is replaced, cheap enough to compute at every start."""
    path = Path(source.name)
    if source.scheme != "file" or not path.exists():
        return ""
    files = {path.name: path} if path.is_file() else source_files(path)
    return ";".join(f"{name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for name, file in files.items())
