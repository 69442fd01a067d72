"""Rules of the repository that no linter knows."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import files, packages_distributions, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = ("operator", "gateway", "worker", "proto")
LONGEST_FILE = 350
VAGUE_NAME = re.compile(r"^ *(?:one|found|told|made)(?:: .+)? = |\bfor (?:one|found|told|made) in ", re.MULTILINE)
EXTRAS = {
    "proto/roost": (),
    "proto/roost/cli": ("cli",),
    "proto/roost/store": ("gateway",),
    "gateway/roost_gateway": ("gateway",),
    "gateway/roost_gateway/simulator": ("gateway", "cli", "plots"),
    "worker/roost_worker": ("worker",),
    "worker/roost_worker/convert": ("worker", "convert", "cli"),
    "worker/roost_worker/oracle.py": ("worker", "convert"),
    "operator/roost_operator": ("operator",),
    "operator/roost_operator/local": ("local",),
    "operator/roost_operator/calibration": ("local",),
    "operator/roost_operator/demo": ("local",),
}
"""Extras of pyproject.toml whose dependencies a folder may import; the longest path counts."""
OURS = {"roost", "roost_gateway", "roost_operator", "roost_worker"}


def sources() -> list[Path]:
    paths = [path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")]
    return [path for path in paths if "_pb2" not in path.name]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_shadows_a_package(folder: str) -> None:
    """A package called `operator` at the root would take the standard library's place."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_tests_are_no_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_files_hold_one_concept() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in sources()}
    assert {str(path): lines for path, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_locals_are_named_for_what_they_hold() -> None:
    vague = {str(path.relative_to(ROOT)): VAGUE_NAME.findall(path.read_text()) for path in sources()}
    assert {path: uses for path, uses in vague.items() if uses} == {}


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


@pytest.mark.parametrize("folder", EXTRAS)
def test_every_imported_package_is_declared(folder: str) -> None:
    """Not only brought along by another one, which may stop doing so. Optional imports need not be."""
    declared = requirements("dependencies", *EXTRAS[folder])
    undeclared = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in sources()
        if max((other for other in EXTRAS if path.is_relative_to(ROOT / other)), key=len, default="") == folder
        for module in imported(ast.parse(path.read_text()))
        if not declared & distributions(module)
    }
    assert undeclared == set()


def requirements(*names: str) -> set[str]:
    """Normalised names of the packages that parts of pyproject.toml ask for, with those of extras of our own."""
    project = PROJECT["project"]
    wanted: set[str] = set()
    for requirement in (line for name in names for line in (project | project["optional-dependencies"])[name]):
        package, own_extras = re.match(r"([A-Za-z0-9._-]+)(?:\[([^]]*)\])?", requirement).groups()
        wanted |= requirements(*own_extras.split(",")) if package == "roost" else {normalised(package)}
    return wanted


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names of what is imported of other people's packages, without what is optional or for type checking."""
    if isinstance(node, ast.Try) and any("ImportError" in ast.unparse(handler) for handler in node.handlers):
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom):
        modules = [f"{node.module}.{alias.name}" for alias in node.names]
    yield from (name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names | OURS)
    for child in ast.iter_child_nodes(node):
        yield from imported(child)


@cache
def distributions(module: str) -> set[str]:
    """Normalised names of the packages that hold a module; of a namespace package, those that hold most of its path."""
    top, *parts = module.split(".")
    owners = set(owners_by_name().get(top, ()))
    for length in range(len(parts), 0, -1):
        path = "/".join((top, *parts[:length]))
        holders = {owner for owner in owners if {f"{path}.py", f"{path}/__init__.py"} & contents(owner)}
        if len(owners) > 1 and holders:
            return set(map(normalised, holders))
    return set(map(normalised, owners))


owners_by_name = cache(packages_distributions)


@cache
def contents(distribution: str) -> set[str]:
    return {str(path) for path in files(distribution) or ()}


def normalised(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
