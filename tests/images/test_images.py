"""Dockerfiles are checked by reading, since nothing here can build them; their locks against the one of the project."""

import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROLES = ("operator", "gateway", "worker")
BASE = re.compile(r"docker\.io/library/python:3\.\d+-(slim-)?[a-z]+( AS build)?$")


def lines(role: str) -> list[str]:
    text = (ROOT / f"images/{role}.Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def locked(file: Path) -> dict[str, frozenset[str]]:
    """Pinned requirement → its hashes."""
    entries = re.split(r"\n(?=[a-z0-9])", file.read_text())
    return {
        entry.split()[0]: frozenset(re.findall(r"sha256:[0-9a-f]{64}", entry)) for entry in entries if "==" in entry
    }


@pytest.mark.parametrize("role", ROLES)
def test_the_last_stage_is_small_and_not_root(role: str) -> None:
    dockerfile = lines(role)
    stages = [index for index, line in enumerate(dockerfile) if line.startswith("FROM ")]
    assert len(stages) == 2
    bases = [BASE.search(dockerfile[index]) for index in stages]
    # Only a worker compiles something: Python's own image that is not slim has a compiler.
    assert [bool(base and base[1]) for base in bases] == [True, role != "worker"]
    last = dockerfile[stages[1] :]
    assert "USER 65532:65532" in last
    assert not [line for line in last if line.startswith("RUN ")], "what builds stays in the first stage"
    assert [line for line in last if line.startswith("COPY ")] == ["COPY --from=build /opt/roost /opt/roost"]


@pytest.mark.parametrize("role", ROLES)
def test_installs_are_hashed_and_nothing_else_is_fetched(role: str) -> None:
    text = "\n".join(lines(role))
    assert "pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes -r /tmp/requirements.lock" in text
    assert text.count("pip install") == 1
    assert not re.search(r"\b(ADD|curl|wget|apt-get|sudo|chmod 777)\b|:latest\b", text)


@pytest.mark.parametrize("role", ROLES)
def test_sources_exist_and_are_let_into_the_build(role: str) -> None:
    copied = [line.split()[1] for line in lines(role) if line.startswith("COPY ") and "--from" not in line]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), flags=re.M)
    assert [path for path in copied if not any(Path(path).match(pattern) for pattern in allowed)] == []


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_lock_agrees_with_the_projects(role: str) -> None:
    project, own = locked(ROOT / "requirements.lock"), locked(ROOT / f"images/{role}.lock")
    assert {name for name, hashes in own.items() if not hashes} == set()
    assert {name for name in own if project.get(name) != own[name]} == set(), "run images/lock.py"


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_lock_holds_its_direct_dependencies(role: str) -> None:
    sys.path.insert(0, str(ROOT / "images"))
    try:
        extras = import_module("lock").EXTRAS[role]
    finally:
        sys.path.remove(str(ROOT / "images"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in extras for d in project["optional-dependencies"][extra])]
    names = {re.split(r"[\[<>=;! ]", dependency)[0].lower() for dependency in wanted}
    assert names - {name.split("==")[0] for name in locked(ROOT / f"images/{role}.lock")} == set(), "run images/lock.py"


@pytest.mark.parametrize("role", ["operator", "gateway"])
def test_small_images_hold_no_torch_and_no_ray(role: str) -> None:
    names = {name.split("==")[0] for name in locked(ROOT / f"images/{role}.lock")}
    assert names & {"torch", "ray", "transformers", "triton"} == set()


@pytest.mark.parametrize("role", ROLES)
def test_images_hold_nothing_that_only_plots_need(role: str) -> None:
    names = {name.split("==")[0] for name in locked(ROOT / f"images/{role}.lock")}
    assert names & {"matplotlib", "pillow", "contourpy", "fonttools"} == set()
