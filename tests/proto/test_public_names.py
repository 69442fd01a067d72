"""What `from roost import …` offers, and what it drags in."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import roost


def type_checked_names() -> set[str]:
    """Names that type checkers see: those imported under TYPE_CHECKING."""
    tree = ast.parse(Path(inspect.getfile(roost)).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_all_is_every_public_name() -> None:
    assert set(roost.__all__) == type_checked_names() | {"__version__"}
    assert list(roost.__all__) == sorted(roost.__all__, key=lambda name: (not name[0].isupper(), name))
    assert set(dir(roost)) >= set(roost.__all__)


@pytest.mark.parametrize("name", roost.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(roost, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="`roost` has no attribute 'Clinet'"):
        roost.Clinet  # noqa: B018


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `code`."""
    program = f"{code}\nimport sys; print(*(name.partition('.')[0] for name in sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    )


def test_the_sdk_needs_none_of_the_services_libraries() -> None:
    loaded = modules_after("from roost import *\nimport roost.sync, roost.testing, roost.errors")
    assert "grpc" in loaded
    forbidden = {"torch", "ray", "redis", "kopf", "kubernetes", "typer", "rich", "pydantic", "yaml", "numpy"}
    assert not loaded & forbidden
    assert not {name for name in loaded if name.startswith("roost_")}


def test_the_contract_needs_not_even_grpc() -> None:
    assert "grpc" not in modules_after("import roost.contract.loghash, roost.contract.names, roost.contract.lease")
    assert "grpc" not in modules_after("from roost import Message, SessionInfo, Usage")


def test_the_package_is_typed() -> None:
    assert (Path(inspect.getfile(roost)).parent / "py.typed").exists()
