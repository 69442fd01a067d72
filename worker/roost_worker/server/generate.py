"""One Generate stream, from Start or Resume to Commit (docs/contracts.md, "Generate stream")."""

import asyncio
import logging
from array import array
from contextlib import suppress
from dataclasses import replace

import grpc.aio

from roost.contract.heads import AttemptRef, Head
from roost.contract.refused import Refused
from roost.contract.steps import CHECKPOINT_SECONDS, INTERVAL_SECONDS
from roost.fault_points import fault_point
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.render.detokenizer import count_tokens_of
from roost_worker.render.formats import CallNamer
from roost_worker.server import refusals, replies
from roost_worker.server.argument_check import check_arguments
from roost_worker.server.attempts import Attempt, Ending
from roost_worker.server.grammar_check import build_constraint, check_grammar
from roost_worker.server.history import complete_log
from roost_worker.server.output import OutputCursor, OutputMessage, read_message
from roost_worker.server.part_stream import PartStream
from roost_worker.server.requests import INLINE_BYTES, Work, content_bytes, prepare, rendered_bytes
from roost_worker.server.session_log import SessionLog, empty_log
from roost_worker.server.sessions import LogRef
from roost_worker.server.shell import Shell
from roost_worker.server.stages import PARSING, SCHEMA, of_request
from roost_worker.server.trunk import TrunkStream

LOG = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse] | TrunkStream

_GATHERING_SECONDS = {api.DELTAS_NONE: CHECKPOINT_SECONDS, api.DELTAS_INTERVAL: INTERVAL_SECONDS}
"""For how long output gathers between two deltas. It does not with EACH, nor for older gateways, which say nothing."""


async def generate(shell: Shell, context: Context) -> Attempt:
    """Serve one stream; return its attempt. A stream that breaks leaves its attempt behind as an orphan.

    Raise Refused with the reason that ends the call.
    """
    first = await context.read()
    opening: pb.Start | pb.Resume
    match first.WhichOneof("message") if isinstance(first, pb.GenerateRequest) else None:
        case "start":
            attempt, opening = _begin(shell, first.start), first.start
        case "resume":
            attempt, opening = _resume(shell, first.resume), first.resume
        case _:
            raise refusals.invalid("the first message must be Start or Resume", field="message")
    stream = _Stream(shell, context, attempt, _GATHERING_SECONDS.get(opening.deltas, 0.0))
    try:
        shell.set_deadline(attempt, opening.deadline_ms)
        if not attempt.submitted:
            await stream.start(first.start)
        await stream.serve()
    finally:
        stream.leave()
    return attempt


def _begin(shell: Shell, start: pb.Start) -> Attempt:
    if start.model_revision and start.model_revision != shell.identity.revision:
        raise refusals.wrong_revision(start.model_revision, shell.identity.revision)
    return shell.begin(start.session.session_id, _ref(start.attempt))


def _resume(shell: Shell, resume: pb.Resume) -> Attempt:
    cursor = OutputCursor(resume.from_token, resume.from_text_byte, resume.from_part)
    return shell.resume(resume.session_id, _ref(resume.attempt), _ref(resume.new_attempt), cursor)


def _ref(attempt: api.Attempt) -> AttemptRef:
    if len(attempt.nonce) != 16:
        raise refusals.invalid(f"a nonce must have 16 bytes, not {len(attempt.nonce)}", field="attempt.nonce")
    return AttemptRef(attempt.epoch, attempt.nonce)


def _head(head: api.Head) -> Head:
    return Head(head.length, head.log_hash)


class _Stream:
    """A stream that reads an attempt's output."""

    def __init__(self, shell: Shell, context: Context, attempt: Attempt, gathering_seconds: float) -> None:
        """`gathering_seconds`: for how long output gathers between two deltas."""
        assert attempt.reader is not None
        self._shell, self._context, self._attempt, self._reader = shell, context, attempt, attempt.reader
        self._reader.interval = gathering_seconds
        self._commit: pb.Commit | None = None
        self._fault: Refused | None = None
        self._closed = False
        self._block_tokens = shell.engine.info.block_tokens

    async def start(self, start: pb.Start) -> None:
        """Complete the log, render the step and submit it to the engine."""
        fault_point("worker.start")
        log = await self._log(start.session) if self._attempt.session else empty_log(0)
        work = await self._prepared(start, log)
        self._check()
        if work.replayed:
            self._reader.cursor = OutputCursor(start.replay.tokens, start.replay.text_bytes, start.replay.parts)
        self._shell.submit(self._attempt, log, work, start.tenant, start.priority, start.role)

    async def serve(self) -> None:
        """Send Accepted, deltas and Finished; return when the step is committed or the gateway closed its side."""
        listener = asyncio.create_task(self._listen())
        try:
            await self._context.write(replies.accepted(self._attempt, self._block_tokens))
            fault_point("worker.accepted")
            await self._send_output()
            with of_request(PARSING):
                message = await self._read_message()
                finished = replies.finished(self._attempt, message, self._block_tokens)
            await self._send_output()  # parts that only the end shows
            self._check()
            await self._context.write(finished)
            fault_point("worker.finished")
            await self._await_commit()
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    def leave(self) -> None:
        """End the stream. Unless it was committed or another stream has it, the attempt becomes an orphan."""
        if self._attempt.reader is self._reader:
            self._shell.release(self._attempt)

    async def _log(self, session: pb.SessionRef) -> SessionLog:
        head = _head(session.head)
        ref = LogRef(session.session_id, session.generation, head)
        log = await complete_log(self._shell.sessions, ref, self._ask, self._next_run)
        self._shell.sessions.put(session.session_id, log)
        return log

    async def _ask(self, need: pb.NeedHistory) -> None:
        await self._context.write(pb.GenerateResponse(need_history=need))

    async def _next_run(self) -> pb.History:
        message = await self._context.read()
        self._check()
        match message.WhichOneof("message") if isinstance(message, pb.GenerateRequest) else "cancel":
            case "history":
                return message.history
            case "cancel":
                self._shell.end(self._attempt, Ending.CANCELLED)
                raise refusals.ended(self._attempt)
        raise refusals.invalid("the answer to NeedHistory must be History or Cancel", field="message")

    async def _prepared(self, start: pb.Start, log: SessionLog) -> Work:
        shell = self._shell
        prompt_ids = await shell.prompts.prompt(start, log.ids, shell.limit, self._check)
        with of_request(SCHEMA):
            constraint = await build_constraint(start, shell.renderer.call_wrapper, shell.grammars)
        arguments = (start, len(log.ids), prompt_ids, shell.renderer, shell.limit, constraint)
        inline = content_bytes(start) <= INLINE_BYTES
        work = prepare(*arguments) if inline else await asyncio.to_thread(prepare, *arguments)
        shell.learn_text_size(rendered_bytes(start, first=not log.ids), len(prompt_ids))
        with of_request(SCHEMA):
            await check_grammar(start, constraint, shell.renderer.call_wrapper, shell.grammars)
        return work

    async def _send_output(self) -> None:
        while True:
            with of_request(PARSING):
                await self._read_parts()
            self._check()
            is_whole = self._attempt.result is not None
            output = self._attempt.next_slice(self._reader)
            if output is not None:
                await self._context.write(replies.delta(output))
                fault_point("worker.delta.sent")
            if is_whole:
                return
            await self._reader.changed()

    async def _read_parts(self) -> None:
        """Read what the output has grown by."""
        attempt, stream = self._attempt, self._parts()
        while attempt.message is None and stream.text_bytes < attempt.output.text_bytes:
            text = attempt.output.text_after(stream.text_bytes, INLINE_BYTES)
            stream.feed(text)
            if stream.needs_log:
                inline = self._log_to_spell() <= INLINE_BYTES
                stream.learn_log() if inline else await asyncio.to_thread(stream.learn_log)
            elif len(text) >= INLINE_BYTES:
                await asyncio.sleep(0)  # a replayed output is long
        if attempt.message is None:
            stream.catch_up()

    def _parts(self) -> PartStream:
        attempt, turn_format = self._attempt, self._shell.renderer.format
        if attempt.part_stream is None:
            namer = CallNamer(turn_format.call_ids, attempt.call_seed, self._log_text)
            attempt.part_stream = PartStream(turn_format.parser(attempt.turn), namer, attempt.output.parts)
        return attempt.part_stream

    async def _read_message(self) -> OutputMessage:
        """Return the output as a message. It is read once per attempt."""
        attempt, text = self._attempt, self._attempt.output.text
        if attempt.message is None:
            inline = len(text) + self._log_to_spell() <= INLINE_BYTES
            message = self._parsed(text) if inline else await asyncio.to_thread(self._parsed, text)
            if attempt.turn.constrained:
                message = await check_arguments(text, message, attempt.unenforced, self._shell.grammars)
            attempt.read_as(message)  # another stream may have read it by now
            for warning in message.warnings:
                LOG.warning("step of session %s: %s", attempt.session or "(none)", warning)
        assert attempt.message is not None
        return attempt.message

    def _parsed(self, text: str) -> OutputMessage:
        attempt, renderer = self._attempt, self._shell.renderer
        message = read_message(text, renderer.format, attempt.turn, attempt.call_seed, self._log_text)
        if not message.reasoning:
            return message
        thinking = renderer.format.thinking_of(text)
        return replace(message, reasoning_tokens=count_tokens_of(len(thinking), attempt.output.ids, renderer))

    def _log_to_spell(self) -> int:
        """Return how many tokens `_log_text` spells, if the output is read with it; else 0."""
        return len(self._log_ids()) if self._shell.renderer.format.call_ids.written is not None else 0

    def _log_text(self) -> str:
        """Return the text of the session's log and of the step's prompt."""
        return self._shell.renderer.vocabulary.spell(self._log_ids())

    def _log_ids(self) -> "array[int]":
        log = self._attempt.log
        return (log.ids if log is not None else array("I")) + self._attempt.prompt_ids

    async def _await_commit(self) -> None:
        while not self._closed:
            self._check()
            await self._reader.changed()
        self._check()
        if self._commit is not None:
            self._shell.commit(self._attempt, _head(self._commit.head))

    async def _listen(self) -> None:
        """Read Cancel and Commit until the gateway closes its side. A failure here ends the stream."""
        try:
            while not self._closed:
                message = await self._context.read()
                if self._attempt.reader is not self._reader:
                    return
                self._handle(message)
                self._reader.wake()
        except Exception:
            LOG.exception("the messages for session %s cannot be read", self._attempt.session or "(none)")
            self._fault = refusals.failed()
            self._reader.wake()

    def _handle(self, message: object) -> None:
        kind = message.WhichOneof("message") if isinstance(message, pb.GenerateRequest) else None
        self._closed = True
        match kind:
            case "cancel":
                self._shell.end(self._attempt, Ending.CANCELLED)
            case "commit" if self._attempt.result is not None and isinstance(message, pb.GenerateRequest):
                self._commit = message.commit
            case str():
                self._fault = refusals.invalid(f"{kind} is out of order here", field="message")

    def _check(self) -> None:
        """Raise Refused when this stream must end."""
        if self._attempt.ending is not None:
            raise refusals.ended(self._attempt)
        if self._attempt.reader is not self._reader:
            raise refusals.fenced()
        if self._fault is not None:
            raise self._fault
