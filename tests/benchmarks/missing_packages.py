"""Prints which programs and tests can run here, where packages may be missing that Roost's environment has.

    python3 tests/benchmarks/missing_packages.py tests/benchmarks/bench_gpu.py tests/worker/model/test_*.py

One path a line on stdout; on stderr, for each of the others, what it lacks. It needs no package itself, runs nothing
and reads imports, those of our modules that a file imports included. Imports within functions are left out: they are
those of features that a caller may do without. Our modules are found by PYTHONPATH and beside the file.
"""

import argparse
import ast
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports as it is loaded; `a.b.c` of `from a.b import c`, module or not."""
    statements: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while statements:
        statement = statements.pop()
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif not _is_optional(statement):
            statements += ast.iter_child_nodes(statement)


def _is_optional(statement: ast.AST) -> bool:
    """Whether a file is loaded without what the statement imports."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            return True
        case ast.If(test=test):
            return ast.unparse(test).endswith("TYPE_CHECKING")
        case ast.Try(handlers=handlers):
            return any("ImportError" in ast.unparse(handler) for handler in handlers)
    return False


def needed(path: Path, roots: Sequence[Path]) -> set[str]:
    """Return the dotted names of other people's packages that a file needs to be loaded."""
    others: set[str] = set()
    roots = [path.resolve().parent, *roots]
    files, loaded = [path, *_fixtures(path)], set[Path]()
    while files:
        file = files.pop()
        if file in loaded:
            continue
        loaded.add(file)
        for name in imported(file):
            ours = list(_our_files(name, roots))
            files += ours
            if not ours and name.partition(".")[0] not in sys.stdlib_module_names:
                others.add(name)
    return others


def _fixtures(path: Path) -> list[Path]:
    """The `conftest.py` files that pytest loads before a test."""
    if not path.name.startswith("test_"):
        return []
    return [folder / "conftest.py" for folder in path.resolve().parents if (folder / "conftest.py").exists()]


def _our_files(name: str, roots: Iterable[Path]) -> Iterator[Path]:
    """The files that importing a name of ours loads: its packages' and its module's."""
    parts = name.split(".")
    for root in roots:
        for end in range(1, len(parts) + 1):
            place = root.joinpath(*parts[:end])
            yield from (file for file in (place / "__init__.py", place.with_suffix(".py")) if file.exists())


def is_installed(name: str) -> bool:
    """Whether the package of a dotted name can be imported. Of a namespace, which packages share, the part counts."""
    package, _, rest = name.partition(".")
    spec = find_spec(package)
    if spec is None or spec.origin is not None or not rest:
        return spec is not None
    return find_spec(f"{package}.{rest.partition('.')[0]}") is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    roots = [Path(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    roots = [root for root in roots if root.resolve().is_relative_to(ROOT)]
    for path in arguments.files:
        needs = {*needed(path, roots), *(["pytest"] if path.name.startswith("test_") else [])}
        missing = sorted({name.partition(".")[0] for name in needs if not is_installed(name)})
        if missing:
            print(f"left out: {path} needs {', '.join(missing)}", file=sys.stderr)
        else:
            print(path)


if __name__ == "__main__":
    main()
