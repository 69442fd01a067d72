"""Reads schemas and checks grammars and arguments in processes of their own: what ends one harms neither worker nor
engine.

The engine takes only grammars that were accepted here.
"""

import asyncio
import hashlib
import json
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

from roost_worker.grammar.compile_process import (
    Answer,
    CompileProcess,
    CompileSetup,
    CompileUnavailableError,
    Question,
)
from roost_worker.grammar.errors import GrammarError
from roost_worker.grammar.tool_schema import ToolSchema

KEPT_VERDICTS = 4096
KEPT_CHARACTERS = 32 << 20
"""Of what was built from schemas: each can be a hundred times as long as the client's text."""


@dataclass(slots=True)
class _Verdict:
    """An answer that is known or on its way."""

    job: "Future[Answer]"
    answer: "asyncio.Future[Answer]"
    waiting: int = 0
    size: int = 0
    """Characters of the answer."""

    @property
    def accepts(self) -> bool:
        """Whether the grammar is known to be accepted."""
        done = self.job.done() and not self.job.cancelled() and self.job.exception() is None
        return done and not self.job.result().refusal


class CompilePool:
    """Reads schemas and checks grammars for one tokenizer. All methods belong to one event loop. Processes start with
    the first question.

    Answers are kept by the question's hash, the latest `KEPT_VERDICTS` and `KEPT_CHARACTERS`. Equal grammars are
    compiled once.
    """

    def __init__(self, setup: CompileSetup) -> None:
        self.setup = setup
        self.processes = tuple(CompileProcess(setup) for _ in range(setup.limits.processes))
        self._idle: SimpleQueue[CompileProcess] = SimpleQueue()
        for process in self.processes:
            self._idle.put(process)
        # A thread per process: its queue is the line of grammars.
        self._threads = ThreadPoolExecutor(len(self.processes), thread_name_prefix="grammar-check")
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._characters = 0

    def accepts(self, grammar: str) -> bool:
        """Whether the grammar was accepted before."""
        verdict = self._known(_digest(Question("grammar", (grammar,))))
        return verdict is not None and verdict.accepts

    async def check(self, grammar: str, seconds: float) -> None:
        """Return when the grammar is accepted, after `seconds` at most.

        Raise GrammarError saying why it is refused, or CompileUnavailableError when there is no verdict in time. A
        compilation that has begun goes on within its limits, and a later `check` gets its verdict.
        """
        await self._result(Question("grammar", (grammar,)), seconds)

    async def tool_schema(self, name: str, parameters_json: str, seconds: float) -> ToolSchema:
        """As the function of this name, within the limits of a grammar. Raise CompileUnavailableError, too."""
        return ToolSchema(*json.loads(await self._result(Question("tool_schema", (name, parameters_json)), seconds)))

    async def json_schema(self, schema: str, seconds: float) -> str:
        """As `build_json_schema`, within the limits of a grammar. Raise CompileUnavailableError, too."""
        return await self._result(Question("json_schema", (schema,)), seconds)

    async def violation(self, parameters_json: str, arguments_json: str, seconds: float) -> str | None:
        """Return why arguments break a tool's schema, after `seconds` at most; None if they keep it.

        The limits of a grammar hold for the check, too. Raise CompileUnavailableError as `check` does.
        """
        answer = await self._ask(Question("arguments", (parameters_json, arguments_json)), seconds)
        return answer.refusal or None

    async def _result(self, question: Question, seconds: float) -> str:
        """Return an answer's result. Raise GrammarError with its refusal."""
        answer = await self._ask(question, seconds)
        if answer.refusal:
            raise GrammarError(answer.refusal)
        return answer.result

    async def _ask(self, question: Question, seconds: float) -> Answer:
        verdict = self._verdict(question)
        verdict.waiting += 1
        try:
            if not verdict.answer.done():
                await asyncio.wait([verdict.answer], timeout=seconds)
        finally:
            verdict.waiting -= 1
            if not verdict.waiting and verdict.job.cancel():  # unless the compilation has begun
                self._forget(_digest(question))
        if not verdict.answer.done() or verdict.answer.cancelled():
            raise CompileUnavailableError(f"the compile processes are busy: no verdict within {seconds:.1f} s")
        return verdict.answer.result()

    async def aclose(self) -> None:
        """End all processes. Running checks raise CompileUnavailableError. Idempotent."""
        for process in self.processes:
            process.kill()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for process in self.processes:
            process.close()

    def _verdict(self, question: Question) -> _Verdict:
        digest = _digest(question)
        if known := self._known(digest):
            return known
        try:
            job = self._threads.submit(self._ask_process, question)
        except RuntimeError as error:
            raise CompileUnavailableError("the worker stops") from error
        verdict = self._verdicts[digest] = _Verdict(job, asyncio.wrap_future(job))
        verdict.answer.add_done_callback(lambda _: self._keep(digest, verdict))
        if len(self._verdicts) > KEPT_VERDICTS:
            self._forget(next(iter(self._verdicts)))
        return verdict

    def _known(self, digest: bytes) -> _Verdict | None:
        if digest in self._verdicts:
            self._verdicts.move_to_end(digest)
        return self._verdicts.get(digest)

    def _keep(self, digest: bytes, verdict: _Verdict) -> None:
        """Count an answer that has come, and forget those used longest ago; forget a job that ended without one."""
        answer = verdict.answer
        if self._verdicts.get(digest) is not verdict:
            return
        if answer.cancelled() or answer.exception():
            self._forget(digest)
            return
        verdict.size = len(answer.result().result) + len(answer.result().refusal or "")
        self._characters += verdict.size
        while self._characters > KEPT_CHARACTERS:
            self._forget(next(iter(self._verdicts)))

    def _forget(self, digest: bytes) -> None:
        if verdict := self._verdicts.pop(digest, None):
            self._characters -= verdict.size

    def _ask_process(self, question: Question) -> Answer:
        process = self._idle.get()
        try:
            return process.ask(question)
        finally:
            self._idle.put(process)


def _digest(question: Question) -> bytes:
    return hashlib.blake2b(json.dumps(question).encode(), digest_size=16).digest()
