"""The demo's tools do real work and answer nonsense with text, never with an exception."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_operator.demo.agents import cast
from roost_operator.demo.tools import FILES, FOLDERS, LONGEST_RESULT, Toolbox, ToolError, evaluate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def toolbox() -> Iterator[Toolbox]:
    toolbox = Toolbox.over(ROOT)
    with contextlib.closing(toolbox.table):
        yield toolbox


def test_search_finds_words_of_the_project(toolbox: Toolbox) -> None:
    assert "README.md:" in toolbox.run("search", {"word": "Roost"})
    assert toolbox.run("search", {"word": "zzzzzz"}).startswith("no line")


@pytest.mark.parametrize("path", FILES)
def test_every_offered_document_can_be_read(toolbox: Toolbox, path: str) -> None:
    assert (ROOT / path).exists()
    assert toolbox.run("read", {"path": path, "page": 1})
    assert toolbox.run("read", {"path": path, "page": 9})


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_table_knows_every_folder(toolbox: Toolbox, folder: str) -> None:
    assert not toolbox.run("count", {"folder": folder}).startswith(f"{folder}: 0 files")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read", {"path": "/etc/passwd", "page": 1}),
        ("read", {"path": "README.md"}),
        ("search", {"word": " "}),
        ("calculate", {"expression": "1 / 0"}),
        ("calculate", {"expression": "7 % 0"}),
        ("unknown", {}),
    ],
)
def test_faulty_calls_are_answered_with_text(toolbox: Toolbox, name: str, arguments: dict[str, object]) -> None:
    assert toolbox.run(name, arguments).startswith("error: ")


def test_sql_in_an_argument_stays_text(toolbox: Toolbox) -> None:
    toolbox.run("count", {"folder": "proto'; DROP TABLE files; --"})
    assert not toolbox.run("count", {"folder": "proto"}).startswith("error")


def test_results_are_short(toolbox: Toolbox) -> None:
    assert len(toolbox.run("read", {"path": "LICENSE", "page": 2})) <= LONGEST_RESULT


@pytest.mark.parametrize(("text", "value"), [("2 + 3 * 4", 14), ("-(7 // 2)", -3), ("10 % 4", 2)])
def test_arithmetic(text: str, value: int) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.5",
        "2 ** 99999",
        "999999999 * 999999999 * 999999999",
        "__import__('os')",
        "a",
        "(lambda: 1)()",
        "True",
        "9" * 400,
        "'x' * 9",
        "[1][0]",
    ],
)
def test_anything_but_whole_number_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(ToolError):
        evaluate(text)


@given(st.text(alphabet="0123456789+-*/%() ", max_size=40))
def test_arithmetic_never_breaks(text: str) -> None:
    with contextlib.suppress(ToolError):
        evaluate(text)


def test_the_cast_is_what_the_demo_promises() -> None:
    parts = cast(12)
    assert len({part.name for part in parts}) == 12
    assert len({part.role for part in parts}) == 3
    assert min(part.steps for part in parts) >= 5
    assert sum(part.evict_after is not None for part in parts) == 4
    assert {part.role for part in parts if part.evict_after is not None} == {part.role for part in parts}
    for part in parts:
        json.dumps([tool.parameters for tool in part.tools])
