"""The way of a step through the fake gateway: begin, write, stream, commit; and the mishaps on the way."""

import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

from roost import wire
from roost._fake_migration import to_revision
from roost._fake_output import FakeOutput, Turn, make_output
from roost._fake_sessions import FakeAttempt, FakeSession
from roost.contract import requests
from roost.contract.messages import JsonSchema, Message, Tool, ToolChoice, ToolChoiceMode
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, check
from roost.v1 import session_service_pb2 as pb
from roost.wire_steps import step_request_from_wire

Reply = Callable[[Turn], str | Message | Awaitable[str | Message]]


class BrokenStreamError(Exception):
    """The "gateway" dies here: its client sees a broken stream, and its attempt stays live."""


@dataclass(slots=True)
class Mishap:
    """Something that goes wrong once: a refusal of the next call, or a fate of the next step's stream."""

    refusal: Refused | None = None
    break_after: int | None = None
    """Tokens after which the stream breaks, before the commit."""
    lose_commit: bool = False
    """The stream breaks after the commit, before the answer."""
    restart_after: int | None = None
    """Tokens after which the output is void and comes again."""


@dataclass(frozen=True, slots=True)
class StepRunner:
    """Runs steps. `reply` writes the output, `delta_tokens` is the size of its pieces."""

    reply: Reply
    context_tokens: int
    delta_tokens: int

    async def run(
        self, session: FakeSession, request: pb.StepRequest, mishap: Mishap, revision: str, *, migrates: bool
    ) -> AsyncIterator[pb.StepResponse]:
        """The events of a step of a gateway whose model is `revision`. Raises Refused and BrokenStreamError."""
        check_step(session, request, self.context_tokens)
        begun = session.begin(request)
        if isinstance(begun, pb.CommittedStep):
            attempt = session.committed[request.step_id]
            for event in self._stream(attempt, _output_of(attempt), request.received):
                yield event
            yield _committed(begun, replayed=True)
            return
        try:
            known = request.expected_head if request.HasField("expected_head") else None
            told = to_revision(session, revision, migrates=migrates, known=known)
            if told is not None:
                yield told
            async for event in self._attempt(session, begun, request, mishap):
                yield event
        except BrokenStreamError:
            session.orphan(begun)
            raise
        except BaseException:  # refused, cancelled, or its client has gone: the session is free again
            session.abandon(begun)
            raise

    async def _attempt(
        self, session: FakeSession, attempt: FakeAttempt, request: pb.StepRequest, mishap: Mishap
    ) -> AsyncIterator[pb.StepResponse]:
        yield _started(session, attempt, request)
        if attempt.output is None:
            attempt.output = await self._write(session, request)
        if mishap.restart_after is not None:
            for event in self._some(attempt, request.received, mishap.restart_after):
                yield event
            attempt.continues.clear()
            yield pb.StepResponse(restarted=pb.StepRestarted(attempt=attempt.attempt, reason="asked for by the test"))
            request.ClearField("received")
        if mishap.break_after is not None:
            for event in self._some(attempt, request.received, mishap.break_after):
                yield event
            raise BrokenStreamError
        for event in self._stream(attempt, attempt.output, request.received):
            yield event
        entry = session.commit(attempt, request, attempt.output)
        if mishap.lose_commit:
            raise BrokenStreamError
        yield _committed(entry, replayed=False)

    def _some(self, attempt: FakeAttempt, received: pb.Cursor, tokens: int) -> Iterator[pb.StepResponse]:
        """The output's pieces until `tokens` of it were sent."""
        for event in self._stream(attempt, _output_of(attempt), received):
            if event.WhichOneof("event") == "delta" and event.delta.token_offset >= tokens:
                return
            yield event

    def _stream(self, attempt: FakeAttempt, output: FakeOutput, received: pb.Cursor) -> Iterator[pb.StepResponse]:
        """What the reader has not got; all of it, after Restarted, when what it has belongs to another output."""
        known = attempt.continues | {attempt.attempt.nonce}
        tokens, text_bytes = received.tokens, received.text_bytes
        if tokens and received.attempt.nonce not in known:
            tokens = text_bytes = 0
            yield pb.StepResponse(restarted=pb.StepRestarted(attempt=attempt.attempt, reason="that output is lost"))
        for delta in output.deltas(attempt.attempt, tokens, text_bytes, self.delta_tokens):
            yield pb.StepResponse(delta=delta)

    async def _write(self, session: FakeSession, request: pb.StepRequest) -> FakeOutput:
        try:
            reply = self.reply(_turn(session, request))
            reply = await reply if inspect.isawaitable(reply) else reply
            _check_reply(request, reply)
        except Refused:
            raise
        except Exception as error:
            raise Refused(Reason.INTERNAL, f"the fake gateway's reply function failed: {error!r}") from error
        return make_output(reply, request.sampling, session.role.max_output_tokens or self.context_tokens)


def check_step(session: FakeSession, request: pb.StepRequest, context_tokens: int) -> None:
    """Refuses a request that could never be a step of this session."""
    asked = step_request_from_wire(request)
    check(requests.step(asked))
    check(requests.schema_of_step(asked), Reason.INVALID_SCHEMA)
    check(requests.step_of_role(asked, session.role))
    if session.head.length + len(session.prompt(request)) >= context_tokens:
        raise Refused(Reason.STEP_TOO_LONG, f"log and step do not fit {context_tokens} tokens of context")
    _check_tools(session, wire.format_from_wire(request.format))


def _check_tools(session: FakeSession, constraint: JsonSchema | ToolChoice | None) -> None:
    if isinstance(constraint, ToolChoice) and constraint.mode is ToolChoiceMode.REQUIRED:
        names = [tool.name for tool in session.tools]
        if not names or (constraint.name and constraint.name not in names):
            raise Refused(Reason.INVALID_REQUEST, f"format: the session has no tool {constraint.name!r}")


def _check_reply(request: pb.StepRequest, reply: str | Message) -> None:
    if isinstance(wire.format_from_wire(request.format), JsonSchema):
        json.loads(reply if isinstance(reply, str) else reply.content)


def _turn(session: FakeSession, request: pb.StepRequest) -> Turn:
    history = [message for entry in session.log for message in (*entry.messages, entry.output)]
    return Turn(
        session_id=session.record.id,
        role=session.role.name,
        system=session.system,
        tools=tuple(Tool(tool.name, tool.description, json.loads(tool.parameters_json)) for tool in session.tools),
        history=tuple(wire.message_from_wire(message) for message in history),
        messages=tuple(wire.message_from_wire(message) for message in request.messages),
        sampling=wire.sampling_from_wire(request.sampling),
        format=wire.format_from_wire(request.format),
    )


def _output_of(attempt: FakeAttempt) -> FakeOutput:
    assert attempt.output is not None
    return attempt.output


def _started(session: FakeSession, attempt: FakeAttempt, request: pb.StepRequest) -> pb.StepResponse:
    return pb.StepResponse(
        started=pb.StepStarted(
            attempt=attempt.attempt,
            worker="fake-worker",
            prompt_tokens=len(session.prompt(request)),
            cached_tokens=session.cached,
        )
    )


def _committed(entry: pb.CommittedStep, *, replayed: bool) -> pb.StepResponse:
    return pb.StepResponse(
        committed=pb.StepCommitted(
            output=entry.output,
            finish_reason=entry.finish_reason,
            usage=entry.usage,
            head=entry.head,
            index=entry.index,
            seed=entry.sampling.seed,
            replayed=replayed,
            output_tokens=len(entry.output_token_ids),
        )
    )
