"""The GPU's benchmark as text: a line as each part ends, and a table in the end."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from figures import in_words


def described(result: Mapping[str, Any]) -> str:
    """Return what a part measured, on one line; empty where there is nothing to say of it."""
    return "; ".join(f"{name} {value}" for name, value in figures_of(result))


def print_table(parts: Mapping[str, Mapping[str, Mapping[str, Any]]], goals: Sequence[Mapping[str, Any]]) -> None:
    """Print every figure, the profiles, and the goals."""
    print(f"\n{'part':>8} {'kernels':>8}  {'figure':<28} {'value':>12}")
    for part, by_kernels in parts.items():
        for kernels, result in by_kernels.items():
            for name, value in figures_of(result):
                print(f"{part:>8} {kernels:>8}  {name:<28} {value:>12}")
    for kernels, result in parts.get("profile", {}).items():
        if "error" in result:
            continue
        print(f"\na step of {result['rows']} rows, {kernels}: calls, microseconds, name")
        for entry in result["top"]:
            print(f"{entry['calls']:>8} {entry['microseconds']:>10} {entry['name']}")
    for goal in goals:
        print(in_words(goal))


def figures_of(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each figure, without lists; of `decode` with the number of rows: `steps at 8`."""
    for name, value in result.items():
        match value:
            case dict() if name.isdecimal():
                yield from ((f"{inner} at {name}", text) for inner, text in figures_of(value))
            case dict():
                yield name, ", ".join(f"{inner} {text}" for inner, text in figures_of(value))
            case float():
                yield name, f"{value:,.3f}".rstrip("0").rstrip(".")
            case list():
                pass
            case None:
                yield name, "-"
            case _:
                yield name, str(value)
