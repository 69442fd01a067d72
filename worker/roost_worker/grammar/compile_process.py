"""A compile process, seen from its worker: started when needed, asked for one verdict at a time, replaced when it ends.

No kept library does this: pebble and loky end a task by wall time, and do not limit CPU time, memory and stack.
"""

import json
import logging
import signal
import socket
import subprocess
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from roost_worker.child_process import spawn_module
from roost_worker.config import GrammarConfig

logger = logging.getLogger(__name__)

MAIN = "roost_worker.grammar.compile_main"
START_SECONDS = 60.0
"""Longest time that a process may take to load the tokenizer."""
HANG_SECONDS = 30.0
"""Longest wall time of one compilation, for one that hangs without using CPU time."""
END_SECONDS = 5.0
"""Longest time that a process which closed its socket may take to end by itself."""
KILLED = (-signal.SIGKILL, -signal.SIGTERM)
"""Statuses of a process that was ended from outside, and not by what it compiled."""
ATTEMPTS = 2
"""How often a grammar is tried whose process was killed from outside, as by Linux when memory runs out."""


class Question(NamedTuple):
    """What a process is asked. It is sent as JSON."""

    kind: Literal["grammar", "arguments", "tool_schema", "json_schema"]
    texts: tuple[str, ...]
    """A grammar to compile; a tool's parameters_json, and arguments to check against it; a tool's name and
    parameters_json; the schema of a step's format."""

    @property
    def subject(self) -> str:
        """What a refusal begins with."""
        match self.kind:
            case "grammar":
                return "the grammar"
            case "arguments":
                return "the check of the arguments"
            case "tool_schema":
                return f"tool {self.texts[0]!r}: parameters_json: the schema"
            case "json_schema":
                return "json_schema: the schema"


class CompileUnavailableError(Exception):
    """There is no verdict now, because compile processes are busy, closed or do not start. A retry can help."""


@dataclass(frozen=True, slots=True)
class CompileSetup:
    """What a compile process needs. It is sent as JSON."""

    tokenizer_json: str
    eos_ids: tuple[int, ...]
    vocab_size: int
    limits: GrammarConfig = field(default_factory=GrammarConfig)
    build: str = "roost_worker.grammar.compiler:build_compile"
    """`module:function`, called with tokenizer_json, eos_ids and vocab_size. It returns a function that compiles a
    grammar, and that raises GrammarError, or anything else, if it cannot."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "CompileSetup":
        values = json.loads(text)
        return cls(**{**values, "eos_ids": tuple(values["eos_ids"]), "limits": GrammarConfig(**values["limits"])})


class Answer(NamedTuple):
    """What a process says to a question."""

    refusal: str | None
    """Why what it was asked about is refused; empty if it is accepted, None if the process was killed from outside."""
    last: bool = True
    """Whether the process has ended, or is to be replaced."""
    result: str = ""
    """What was built from a schema: for a tool's, a ToolSchema as JSON; for a step's format, a grammar."""


class CompileProcess:
    """One compile process after another. `ask` and `close` belong to one thread at a time, `kill` to any.

    A process dies with the thread whose `ask` started it.
    """

    def __init__(self, setup: CompileSetup) -> None:
        self._setup = setup
        self._child: _Child | None = None
        self._killed = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The process's pid; None while there is no process."""
        child = self._child
        return child.process.pid if child else None

    def ask(self, question: Question) -> Answer:
        """Return the answer, with a refusal that is not None. Blocks.

        Raise CompileUnavailableError when no process can tell.
        """
        for _ in range(ATTEMPTS):
            child = self._child or self._start()
            try:
                answer = child.ask(question)
            except CompileUnavailableError:
                self._child = None
                raise
            if answer.last:
                self._replace(child)
            if answer.refusal is not None:
                return answer
        raise CompileUnavailableError("compile processes are killed from outside; is there enough memory?")

    def kill(self) -> None:
        """End the process and start no other. A running `ask` raises CompileUnavailableError. Idempotent."""
        with self._lock:
            self._killed = True
            child = self._child
        if child is not None:
            child.process.kill()

    def close(self) -> None:
        """As `kill`; wait until the process has ended. Idempotent."""
        self.kill()
        if self._child is not None:
            self._child.end()
            self._child = None

    def _start(self) -> "_Child":
        with self._lock:
            if self._killed:
                raise CompileUnavailableError("the worker stops")
            try:
                self._child = _Child(self._setup)
            except OSError as error:
                raise CompileUnavailableError(f"a compile process cannot be started: {error}") from error
            return self._child

    def _replace(self, child: "_Child") -> None:
        """End a process and start the next one at once, so that it has loaded when a grammar comes."""
        child.process.kill()
        child.end()
        self._child = None
        with suppress(CompileUnavailableError):
            self._start()


class _Child:
    """A process and the socket to it."""

    def __init__(self, setup: CompileSetup) -> None:
        self._limits = setup.limits
        self._ready = False
        self._channel, theirs = socket.socketpair()
        with theirs:
            try:
                # stdout is not inherited: a program may read the worker's. stderr is the worker's log.
                self.process = spawn_module(MAIN, setup.to_json(), stdin=theirs, stdout=subprocess.DEVNULL)
            except OSError:
                self._channel.close()
                raise
        self._lines = self._channel.makefile("rb")

    def ask(self, question: Question) -> Answer:
        """Raise CompileUnavailableError, with the process ended, when it did not come up."""
        if not self._ready and (killed := self._await_ready()):
            return killed
        try:
            with suppress(ConnectionError):
                self._channel.settimeout(HANG_SECONDS)
                self._channel.sendall(json.dumps(question).encode() + b"\n")
            answer = self._read(HANG_SECONDS)
        except TimeoutError:
            return Answer(f"{question.subject} does not end within {HANG_SECONDS:.0f} s; simplify the schema")
        return self._last_answer(question) if answer is None else Answer(*answer)

    def end(self) -> int:
        """Return the status that the process ends with (-N: signal N), and close the socket. Idempotent."""
        try:
            status = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._lines.close()
        self._channel.close()
        return status

    def _await_ready(self) -> Answer | None:
        """Wait until the process has loaded; return its last answer if it was killed before."""
        try:
            self._ready = self._read(START_SECONDS) is not None
        except TimeoutError:
            self.process.kill()
            self.end()
            raise CompileUnavailableError(f"a compile process does not load within {START_SECONDS:.0f} s") from None
        if self._ready:
            return None
        if (status := self.end()) in KILLED:
            return Answer(None)
        raise CompileUnavailableError(f"a compile process ended with status {status} before it was ready")

    def _read(self, seconds: float) -> Any:
        """Return the next line's document, or None at the end. Raise TimeoutError."""
        self._channel.settimeout(seconds)
        with suppress(ConnectionError, ValueError):
            return json.loads(self._lines.readline())
        return None

    def _last_answer(self, question: Question) -> Answer:
        status = self.end()
        refusal = _reason_of(status, question.subject, self._limits)
        logger.warning("a compile process ended with status %d: %s", status, refusal or "it was killed from outside")
        return Answer(refusal)


def _reason_of(status: int, subject: str, limits: GrammarConfig) -> str | None:
    """Return the refusal of what a process ended with; None if the process was killed from outside."""
    if status in KILLED:
        return None
    if status == -signal.SIGPROF:
        return f"{subject} takes longer than {limits.cpu_seconds:g} s of CPU time; simplify the schema"
    ending = signal.Signals(-status).name if status < 0 else f"status {status}"
    return (
        f"{subject} ends its process ({ending}): it takes more than {limits.memory_bytes >> 20} MiB "
        "or too deep a stack, or crashes the grammar library; simplify the schema"
    )
