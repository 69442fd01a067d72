"""Stands in for the grammar library in compile processes. A grammar names what happens: `step=WORD` or
`step=WORD:VALUE`, where VALUE is a size, a text, or a file or FIFO that the test shares."""

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from roost_worker.config import GrammarConfig
from roost_worker.grammar import CompileSetup, GrammarError

_STEP = re.compile(r"step=([a-z-]+)(?::([\w/.-]*))?")
_kept: list[bytes] = []


class Panic(BaseException):
    """As a panic of Rust code is raised in Python."""


def setup(build: str = "build", **limits: float) -> CompileSetup:
    """The setup of a pool whose processes compile by `build` of this module."""
    values = {"cpu_seconds": 0.5, "memory_bytes": 64 << 20, **limits}
    return CompileSetup("none", (0,), 8, GrammarConfig(**values), f"{__name__}:{build}")


def build(tokenizer_json: str, eos_ids: Sequence[int], vocab_size: int) -> Callable[[str], None]:
    assert (tokenizer_json, eos_ids, vocab_size) == ("none", (0,), 8)
    return _compile


def build_short(tokenizer_json: str, eos_ids: Sequence[int], vocab_size: int) -> Callable[[str], None]:
    """Accepts grammars of `vocab_size` characters at most."""

    def compile_(grammar: str) -> None:
        if len(grammar) > vocab_size:
            raise GrammarError("the grammar is refused: too long")

    return compile_


def build_nothing(tokenizer_json: str, eos_ids: Sequence[int], vocab_size: int) -> Callable[[str], None]:
    sys.exit("there is no such tokenizer")


def _compile(grammar: str) -> None:
    step = _STEP.search(grammar)
    word, value = step.groups() if step else ("accept", None)
    match word:
        case "refuse":
            raise GrammarError(f"the grammar is refused: {value}")
        case "panic":
            raise Panic("index out of bounds")
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(7)
        case "loop":
            _tell(value)
            while True:
                pass
        case "hang":
            signal.pause()
        case "allocate":
            _allocate()
        case "recurse":
            _recurse()
        case "keep":
            _kept.append(b"x" * int(value or 0))
        case "count":
            with Path(value or "").open("a") as calls:
                calls.write("x")
        case "wait":
            Path(value or "").read_text()
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "killed-once":
            if not Path(value or "").exists():
                Path(value or "").touch()
                os.kill(os.getpid(), signal.SIGKILL)


def _tell(fifo: str | None) -> None:
    if fifo:
        Path(fifo).write_text("x")


def _allocate() -> None:
    chunks = []
    while True:
        chunks.append(bytearray(1 << 20))  # which takes next to no CPU time, whose limit is another


def _recurse() -> None:
    """Takes 2 MiB of C stack, which a program usually has."""
    sys.setrecursionlimit(10**9)
    deep: list[object] = []
    for _ in range(15_000):
        deep = [deep]
    repr(deep)
