"""A Hugging Face hub that is a folder: it gives what is asked for, and says which files that was."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects


class FakeHub:
    """Takes the place of `huggingface_hub.snapshot_download`. `downloaded` has the files of each call."""

    def __init__(self, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._repository = repository
        self.downloaded: list[set[str]] = []
        self.revisions: list[str | None] = []
        monkeypatch.setattr("huggingface_hub.snapshot_download", self._download)

    def _download(
        self, repo_id: str, *, revision: str | None, allow_patterns: Any, ignore_patterns: Any, cache_dir: Path
    ) -> str:
        commit = cache_dir / "snapshots" / "0123abcd"
        commit.mkdir(parents=True, exist_ok=True)
        paths = [str(path.relative_to(self._repository)) for path in self._repository.rglob("*") if path.is_file()]
        asked = set(filter_repo_objects(paths, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        for name in asked:
            (commit / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._repository / name, commit / name)
        self.downloaded.append({name for name in asked if name.endswith(".safetensors")})
        self.revisions.append(revision)
        return str(commit)
