"""Verdicts on grammars and arguments, given by processes of their own: what ends one harms neither worker nor engine.

The engine takes only grammars that were accepted here.
"""

import asyncio
import hashlib
import json
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

from roost_worker.grammar.compile_process import CompileProcess, CompileSetup, CompileUnavailableError, Question
from roost_worker.grammar.errors import GrammarError

KEPT_VERDICTS = 4096


@dataclass(slots=True)
class _Verdict:
    """A verdict that is known or on its way: why something is refused, or an empty string."""

    job: "Future[str]"
    refusal: "asyncio.Future[str]"
    waiting: int = 0

    @property
    def accepts(self) -> bool:
        """Whether the grammar is known to be accepted."""
        done = self.job.done() and not self.job.cancelled() and self.job.exception() is None
        return done and not self.job.result()


class CompilePool:
    """Checks grammars for one tokenizer. All methods belong to one event loop. Processes start with the first grammar.

    Verdicts are kept by the grammar's hash, the latest `KEPT_VERDICTS`. Equal grammars are compiled once.
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

    def accepts(self, grammar: str) -> bool:
        """Whether the grammar was accepted before."""
        verdict = self._known(_digest(grammar))
        return verdict is not None and verdict.accepts

    async def check(self, grammar: str, seconds: float) -> None:
        """Return when the grammar is accepted, after `seconds` at most.

        Raise GrammarError saying why it is refused, or CompileUnavailableError when there is no verdict in time. A
        compilation that has begun goes on within its limits, and a later `check` gets its verdict.
        """
        if refusal := await self._ask(grammar, seconds):
            raise GrammarError(refusal)

    async def violation(self, parameters_json: str, arguments_json: str, seconds: float) -> str | None:
        """Return why arguments break a tool's schema, after `seconds` at most; None if they keep it.

        The limits of a grammar hold for the check, too. Raise CompileUnavailableError as `check` does.
        """
        return await self._ask((parameters_json, arguments_json), seconds) or None

    async def _ask(self, question: Question, seconds: float) -> str:
        verdict = self._verdict(question)
        verdict.waiting += 1
        try:
            await asyncio.wait([verdict.refusal], timeout=seconds)
        finally:
            verdict.waiting -= 1
            if not verdict.waiting and verdict.job.cancel():  # unless the compilation has begun
                self._verdicts.pop(_digest(question), None)
        if not verdict.refusal.done() or verdict.refusal.cancelled():
            raise CompileUnavailableError(f"the compile processes are busy: no verdict within {seconds:.1f} s")
        return verdict.refusal.result()

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
            job = self._threads.submit(self._check, question)
        except RuntimeError as error:
            raise CompileUnavailableError("the worker stops") from error
        verdict = self._verdicts[digest] = _Verdict(job, asyncio.wrap_future(job))
        verdict.refusal.add_done_callback(lambda refusal: self._forget_unknown(digest, refusal))
        if len(self._verdicts) > KEPT_VERDICTS:
            self._verdicts.popitem(last=False)
        return verdict

    def _known(self, digest: bytes) -> _Verdict | None:
        if digest in self._verdicts:
            self._verdicts.move_to_end(digest)
        return self._verdicts.get(digest)

    def _forget_unknown(self, digest: bytes, refusal: "asyncio.Future[str]") -> None:
        """Keep no verdict of a job that ended without one."""
        if refusal.cancelled() or refusal.exception():
            self._verdicts.pop(digest, None)

    def _check(self, question: Question) -> str:
        process = self._idle.get()
        try:
            return process.check(question)
        finally:
            self._idle.put(process)


def _digest(question: Question) -> bytes:
    return hashlib.blake2b(json.dumps(question).encode(), digest_size=16).digest()
