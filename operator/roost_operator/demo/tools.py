"""The tools of the demo's agents. They do real work, in the client, never in a worker."""

import ast
import operator
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roost import Tool

FOLDERS = ("proto", "gateway", "worker", "operator")
FILES = ("README.md", "Makefile", "LICENSE", "pyproject.toml")
LONGEST_RESULT = 160
"""Characters of a result; short, so that a session's log stays small."""

_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class ToolError(Exception):
    """A call that a tool cannot answer. The text goes back to the model."""


@dataclass(frozen=True)
class Toolbox:
    """The tools over one project folder."""

    root: Path
    table: sqlite3.Connection

    @classmethod
    def over(cls, root: Path) -> "Toolbox":
        """Tools over the project at `root`, with a table of its source files."""
        table = sqlite3.connect(":memory:", check_same_thread=False)
        table.execute("CREATE TABLE files (folder TEXT, path TEXT, lines INTEGER)")
        table.executemany("INSERT INTO files VALUES (?, ?, ?)", _source_files(root))
        return cls(root, table)

    def run(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Result of a call, at most `LONGEST_RESULT` characters. Errors are returned as text for the model."""
        tools: Mapping[str, Callable[..., str]] = {
            "search": self.search,
            "read": self.read,
            "calculate": self.calculate,
            "count": self.count,
        }
        try:
            return tools[name](**arguments)[:LONGEST_RESULT]
        except (ToolError, TypeError, KeyError) as error:
            return f"error: {error}"[:LONGEST_RESULT]

    def search(self, word: str) -> str:
        """The first lines of the project's documents that contain a word."""
        needle = word.strip().lower()
        if not needle:
            raise ToolError("give a word to search for")
        matches = []
        for name in FILES:
            for number, line in enumerate(self._lines(name), 1):
                if needle in line.lower():
                    matches.append(f"{name}:{number}: {' '.join(line.split())[:50]}")
        return f"{len(matches)} lines. " + " | ".join(matches[:2]) if matches else f"no line holds {needle!r}"

    def read(self, path: str, page: int) -> str:
        """A few lines of a document; a page is ten lines."""
        if path not in FILES:
            raise ToolError(f"{path!r} is not one of {', '.join(FILES)}")
        lines = [" ".join(text.split()) for text in self._lines(path) if text.strip()]
        if not lines:
            return f"{path} is empty"
        start = max(0, min(10 * (page - 1), len(lines) - 1))
        return " / ".join(lines[start : start + 3])

    def calculate(self, expression: str) -> str:
        """Value of an arithmetic expression."""
        return f"{expression} = {evaluate(expression)}"

    def count(self, folder: str) -> str:
        """Source files of a folder, from the table."""
        query = "SELECT COUNT(*), COALESCE(SUM(lines), 0), COALESCE(MAX(lines), 0) FROM files WHERE folder = ?"
        files, lines, longest = self.table.execute(query, (folder,)).fetchone()
        return f"{folder}: {files} files, {lines} lines, the longest has {longest}"

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.root / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []


def evaluate(expression: str) -> int:
    """Value of an expression of integers with + - * // and %. Raises ToolError for anything else."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise ToolError(f"{expression!r} is not an arithmetic expression") from error
    return _value(tree.body)


def _value(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int(value)) if not isinstance(value, bool) and abs(value) < 10**12:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _OPERATORS:
            try:
                value = _OPERATORS[type(kind)](_value(left), _value(right))
            except ZeroDivisionError as error:
                raise ToolError("division by zero") from error
            if abs(value) > 10**18:
                raise ToolError("the value is too large")
            return int(value)
    raise ToolError("only whole numbers with + - * // and % are understood")


def _source_files(root: Path) -> list[tuple[str, str, int]]:
    files = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            lines = len(path.read_text(encoding="utf-8", errors="replace").splitlines())
            files.append((folder, str(path.relative_to(root)), lines))
    return files


def _parameters(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SEARCH = Tool(
    "search",
    "Search the project's documents.",
    _parameters(word={"type": "string", "minLength": 3, "maxLength": 12, "pattern": "^[a-z]+$"}),
)
READ = Tool(
    "read",
    "Read from a document.",
    _parameters(path={"enum": list(FILES)}, page={"type": "integer", "minimum": 1, "maximum": 9}),
)
CALCULATE = Tool(
    "calculate",
    "Evaluate arithmetic.",
    _parameters(expression={"type": "string", "pattern": r"^[1-9][0-9]{0,2} [-+*] [1-9][0-9]{0,2}$"}),
)
COUNT = Tool("count", "Count a folder's source lines.", _parameters(folder={"enum": list(FOLDERS)}))

EXPECTED_SECONDS = {"search": 0.4, "read": 0.2, "calculate": 0.1, "count": 0.3}
"""How long the demo lets each tool take; sent with the hold."""
