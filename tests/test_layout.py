"""Rules of the repository that no linter knows."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = ("operator", "gateway", "worker", "proto")
LONGEST_FILE = 350


def sources() -> list[Path]:
    found = [path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")]
    return [path for path in found if "_pb2" not in path.name]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_shadows_a_package(folder: str) -> None:
    """A package called `operator` at the root would take the standard library's place."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_tests_are_no_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_files_hold_one_concept() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in sources()}
    assert {str(path): lines for path, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_locked_packages_carry_hashes_and_no_index() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", lock)
    assert len(entries) > 50
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", lock)


def test_lock_holds_every_direct_dependency() -> None:
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), flags=re.M))
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    wanted += [name for extra in project["optional-dependencies"].values() for name in extra]
    names = {re.split(r"[\[<>=;! ]", name)[0].lower() for name in wanted} - {"roost"}
    assert names - {name.lower() for name in locked} == set()


def test_one_version() -> None:
    assert version("roost") == PROJECT["project"]["version"]


def test_every_dependency_has_its_reason() -> None:
    """CONTRIBUTING.md's table names each one."""
    table = (ROOT / "CONTRIBUTING.md").read_text()
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    wanted += [name for extra in project["optional-dependencies"].values() for name in extra]
    names = {re.split(r"[\[<>=;! ]", name)[0] for name in wanted} - {"roost"}
    assert sorted(name for name in names if f"`{name}`" not in table) == []
