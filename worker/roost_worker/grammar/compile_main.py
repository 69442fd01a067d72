"""The process that reads schemas and compiles grammars, one at a time and within limits.

It runs as `python -m roost_worker.grammar.compile_main`.

It reads questions (`compile_process.Question`) from standard input, which is a socket, and writes an `Answer` to each,
in lines of JSON. A first line says that it has loaded. Linux ends it at a limit, whatever native code is doing: with
SIGPROF at the limit of CPU time, and with what an allocation or a push to the stack that fails leads to.

A compiled grammar cannot be sent to another process: llguidance's matchers have no serialised form. So the engine
compiles what is accepted here a second time.
"""

import importlib
import json
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from roost_worker.child_process import die_with_parent
from roost_worker.config import GrammarConfig
from roost_worker.grammar.arguments import violation
from roost_worker.grammar.build import build_json_schema
from roost_worker.grammar.compile_process import Answer, CompileSetup, Question
from roost_worker.grammar.errors import GrammarError
from roost_worker.grammar.tool_schema import tool_schema

Compile = Callable[[str], object]

STACK_BYTES = 1 << 20
"""Half of the least that glibc gives to a thread, so that what passes here does not end the engine."""
GROWTH = 4
"""A process that holds more than this part of `memory_bytes` when it is idle is replaced."""


def main() -> None:
    """Answer until the worker closes the socket. Arguments: the worker's pid, and a CompileSetup as JSON."""
    die_with_parent(int(sys.argv[1]))
    setup = CompileSetup.from_json(sys.argv[2])
    with socket.socket(fileno=sys.stdin.fileno()) as channel, channel.makefile("rwb") as lines:
        module, _, function = setup.build.partition(":")
        build = getattr(importlib.import_module(module), function)
        compile_: Compile = build(setup.tokenizer_json, setup.eos_ids, setup.vocab_size)
        base = _set_limits(setup.limits)
        lines.write(b"[]\n")
        lines.flush()
        for line in lines:
            refusal, result = _answer(compile_, Question(*json.loads(line)), setup.limits)
            answer = Answer(refusal, _address_space() - base > setup.limits.memory_bytes // GROWTH, result)
            lines.write(json.dumps(answer).encode() + b"\n")
            lines.flush()


def _answer(compile_: Compile, question: Question, limits: GrammarConfig) -> tuple[str, str]:
    """Work on a question within `cpu_seconds`; return the answer's refusal and result."""
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds)
    try:
        match question.kind:
            case "grammar":
                compile_(*question.texts)
            case "arguments":
                return violation(*question.texts) or "", ""
            case "tool_schema":
                return "", json.dumps(tool_schema(*question.texts))
            case "json_schema":
                return "", build_json_schema(*question.texts)
    except GrammarError as error:
        return str(error), ""
    except MemoryError:
        return f"{question.subject} needs more than {limits.memory_bytes >> 20} MiB; simplify the schema", ""
    except BaseException as error:  # a panic of llguidance is not an Exception
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return f"{question.subject} breaks the library that reads it: {what}", ""
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    return "", ""


def _set_limits(limits: GrammarConfig) -> int:
    """Set the limits that hold for all grammars; return the address space used before the first, in bytes."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    base = _address_space()
    for kind, soft in (
        (resource.RLIMIT_AS, base + limits.memory_bytes),
        (resource.RLIMIT_STACK, STACK_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    with suppress(OSError):  # if memory runs out, this process is to go, not the engine
        Path("/proc/self/oom_score_adj").write_text("1000")
    return base


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
