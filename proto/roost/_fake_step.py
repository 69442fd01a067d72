"""The way of a step through the fake gateway: begin, write, stream, commit; and the mishaps on the way."""

import inspect
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace

from roost import wire
from roost._fake_output import REVISION, FakeOutput, Turn, make_output, render
from roost._fake_wire import (
    WORKER,
    FakeRole,
    committed_to_wire,
    digest,
    expected_head,
    from_record,
    migrated_to_wire,
    to_record,
)
from roost.contract import requests
from roost.contract.heads import AttemptRef, Head
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.loghash import extend, pack_ids, unpack_ids
from roost.contract.messages import JsonSchema, Message, Tool, ToolChoice, ToolChoiceMode
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, check
from roost.store.memory import MemoryStore
from roost.store.records import (
    AlreadyCommitted,
    Began,
    BeginRequest,
    CommitRequest,
    Descriptor,
    LogEntry,
    MigrateRequest,
    RenewItem,
)
from roost.store.rules import ID_BYTES
from roost.v1 import session_service_pb2 as pb

Reply = Callable[[Turn], str | Message | Awaitable[str | Message]]
LEASE_MS = round(LEASE_TTL_SECONDS * 1000)


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


@dataclass(slots=True)
class _Written:
    """An attempt's output, and the attempts that had written it or its beginning, the last of them itself."""

    lineage: list[AttemptRef]
    output: FakeOutput | None = None


@dataclass(slots=True)
class StepRunner:
    """Runs steps. `reply` writes the output, `delta_tokens` is the size of its pieces."""

    store: MemoryStore
    reply: Reply
    context_tokens: int
    delta_tokens: int
    revision: str = REVISION
    """Of the pool's model."""
    migrates: bool = True
    """Whether sessions of other revisions migrate; else they are refused."""
    _running: dict[AttemptRef, RenewItem] = field(default_factory=dict)
    _written: dict[AttemptRef, _Written] = field(default_factory=dict)

    async def renew(self, pool: str) -> None:
        """Renews the leases of running attempts; to be called before what may look at them."""
        await self.store.renew(pool, list(self._running.values()), LEASE_MS)

    async def run(
        self, descriptor: Descriptor, role: FakeRole, request: pb.StepRequest, mishap: Mishap
    ) -> AsyncIterator[pb.StepResponse]:
        """The events of a step. Raises Refused and BrokenStreamError."""
        self._check(descriptor, role, request)
        began = await self.store.begin(self._begin_request(descriptor, role, request))
        if isinstance(began, AlreadyCommitted):
            for event in self._stream(_written_before(began), request.received):
                yield event
            yield committed_to_wire(began.entry, began.generation, replayed=True)
            return
        self._running[began.ref] = RenewItem(request.session_id, began.ref)
        try:
            moved = await self._to_revision(began)
            if moved is not began or _is_former(began.descriptor, expected_head(request)):
                yield migrated_to_wire(moved.descriptor)
            async for event in self._attempt(moved, role, request, mishap):
                yield event
        except BrokenStreamError:
            await self.renew(began.descriptor.pool)  # its lease lasts on from here
            raise
        except BaseException:  # refused, cancelled, or its client has gone: the session is free again
            await self.store.abort(request.session_id, began.ref)
            raise
        finally:
            del self._running[began.ref]

    def _begin_request(self, descriptor: Descriptor, role: FakeRole, request: pb.StepRequest) -> BeginRequest:
        head = expected_head(request)
        return BeginRequest(
            session_id=request.session_id,
            tenant=descriptor.tenant,
            step_id=request.step_id,
            digest=digest(request),
            expected_head=head,
            expected_generation=head.generation if head else 0,
            nonce=secrets.token_bytes(16),
            seed=request.sampling.seed if request.sampling.HasField("seed") else secrets.randbits(63),
            lease_ms=LEASE_MS,
            new_tokens=1,  # the real gateway estimates; here a budget ends a session once it is used up
            max_session_tokens=0,
            budget_tokens=role.budget_tokens,
            max_steps=role.max_steps,
            priority=0,
            deadline_ms=0,
        )

    async def _to_revision(self, began: Began) -> Began:
        """Brings a session to the pool's revision before its step. Refuses: MODEL_REVISION_MISMATCH."""
        descriptor = began.descriptor
        if not descriptor.steps or descriptor.model_revision == self.revision:
            return began
        if not self.migrates:
            revision = descriptor.model_revision
            raise Refused(Reason.MODEL_REVISION_MISMATCH, f"the session was begun on revision {revision}")
        migrated = await self.store.migrate(await self._rendered(began))
        self.store.publish_cached(descriptor.session_id, WORKER, 0)
        return replace(began, descriptor=migrated, cached_tokens=0)

    async def _rendered(self, began: Began) -> MigrateRequest:
        """The same steps, rendered as another revision does."""
        old = began.descriptor
        ids = await self.store.ids(old.session_id, old.generation, 0, old.head.length)
        head, packed, entries = Head(), b"", list[LogEntry]()
        for entry in await self.store.log(old.session_id, old.generation, 0, old.steps):
            end = entry.head.length * ID_BYTES
            messages = [from_record(message, pb.Message) for message in entry.messages]
            prompt = render(old.system, _tool_names(old), messages, first=not entries, revision=self.revision)
            step = pack_ids([*prompt]) + ids[end - entry.output_tokens * ID_BYTES : end]
            head, packed = _follow(head, step), packed + step
            moved = {"prompt_tokens": len(prompt), "cached_tokens": 0, "reconstructed_tokens": 0}
            entries.append(replace(entry, **moved, head=head, model_revision=self.revision))
        return MigrateRequest(
            old.session_id, began.ref, old.head, tuple(entries), packed, self.revision, ttl_ms=0, lease_ms=LEASE_MS
        )

    async def _attempt(
        self, began: Began, role: FakeRole, request: pb.StepRequest, mishap: Mishap
    ) -> AsyncIterator[pb.StepResponse]:
        fenced = self._written.get(began.fenced.ref) if began.fenced else None
        lineage = fenced.lineage if fenced and fenced.output else []
        written = self._written[began.ref] = _Written([*lineage, began.ref], fenced and fenced.output)
        prompt = self._prompt(began.descriptor, request)
        attempt = pb.Attempt(epoch=began.ref.epoch, nonce=began.ref.nonce)
        yield pb.StepResponse(
            started=pb.StepStarted(
                attempt=attempt, worker=WORKER, prompt_tokens=len(prompt), cached_tokens=began.cached_tokens
            )
        )
        output = written.output = written.output or await self._write(began.descriptor, role, request)
        if mishap.restart_after is not None:
            for event in self._some(written, request.received, mishap.restart_after):
                yield event
            written.lineage = [began.ref]
            yield pb.StepResponse(restarted=pb.StepRestarted(attempt=attempt, reason="asked for by the test"))
            request.ClearField("received")
        if mishap.break_after is not None:
            for event in self._some(written, request.received, mishap.break_after):
                yield event
            raise BrokenStreamError
        for event in self._stream(written, request.received):
            yield event
        entry = await self.store.commit(self._commit_request(began, request, prompt, output, written.lineage))
        self.store.publish_cached(request.session_id, WORKER, entry.head.length)
        for ref in written.lineage:
            self._written.pop(ref, None)
        if mishap.lose_commit:
            raise BrokenStreamError
        yield committed_to_wire(entry, began.descriptor.generation, replayed=False)

    def _commit_request(
        self, began: Began, request: pb.StepRequest, prompt: bytes, output: FakeOutput, lineage: list[AttemptRef]
    ) -> CommitRequest:
        descriptor, packed = began.descriptor, pack_ids([*prompt, *output.ids])
        entry = LogEntry(
            step_id=request.step_id,
            index=descriptor.steps,
            messages=tuple(to_record(message) for message in request.messages),
            output={
                "message": to_record(output.message),
                "text": output.text,
                "attempts": [[ref.epoch, ref.nonce.hex()] for ref in lineage],
            },
            finish_reason=pb.FinishReason.Name(output.finish_reason),
            prompt_tokens=len(prompt),
            output_tokens=len(output.ids),
            cached_tokens=began.cached_tokens,
            reconstructed_tokens=descriptor.head.length - began.cached_tokens,
            head=_follow(descriptor.head, packed),
            seed=began.seed,
            sampling=to_record(request.sampling),
            format=to_record(request.format) if request.HasField("format") else None,
            model_revision=self.revision,
            worker_id=WORKER,
        )
        return CommitRequest(request.session_id, began.ref, descriptor.head, entry, packed, ttl_ms=0, owner=WORKER)

    def _some(self, written: _Written, received: pb.Cursor, tokens: int) -> Iterator[pb.StepResponse]:
        """The output's pieces until `tokens` of it were sent."""
        for event in self._stream(written, received):
            if event.WhichOneof("event") == "delta" and event.delta.token_offset >= tokens:
                return
            yield event

    def _stream(self, written: _Written, received: pb.Cursor) -> Iterator[pb.StepResponse]:
        """What the reader has not got; all of it, after Restarted, when what it has belongs to another output."""
        assert written.output is not None
        attempt = pb.Attempt(epoch=written.lineage[-1].epoch, nonce=written.lineage[-1].nonce)
        tokens, text_bytes = received.tokens, received.text_bytes
        if tokens and received.attempt.nonce not in [ref.nonce for ref in written.lineage]:
            tokens = text_bytes = 0
            yield pb.StepResponse(restarted=pb.StepRestarted(attempt=attempt, reason="that output is lost"))
        for delta in written.output.deltas(attempt, tokens, text_bytes, self.delta_tokens):
            yield pb.StepResponse(delta=delta)

    async def _write(self, descriptor: Descriptor, role: FakeRole, request: pb.StepRequest) -> FakeOutput:
        try:
            reply = self.reply(await self._turn(descriptor, request))
            reply = await reply if inspect.isawaitable(reply) else reply
            if isinstance(wire.format_from_wire(request.format), JsonSchema):
                json.loads(reply if isinstance(reply, str) else reply.content)
        except Refused:
            raise
        except Exception as error:
            raise Refused(Reason.INTERNAL, f"the fake gateway's reply function failed: {error!r}") from error
        return make_output(reply, request.sampling, role.max_output_tokens or self.context_tokens)

    async def _turn(self, descriptor: Descriptor, request: pb.StepRequest) -> Turn:
        log = await self.store.log(descriptor.session_id, descriptor.generation, 0, descriptor.steps)
        history = [record for entry in log for record in (*entry.messages, entry.output["message"])]
        tools = [from_record(record, pb.Tool) for record in descriptor.tools]
        return Turn(
            session_id=descriptor.session_id,
            role=descriptor.role,
            system=descriptor.system,
            tools=tuple(Tool(tool.name, tool.description, json.loads(tool.parameters_json)) for tool in tools),
            history=tuple(wire.message_from_wire(from_record(record, pb.Message)) for record in history),
            messages=tuple(wire.message_from_wire(message) for message in request.messages),
            sampling=wire.sampling_from_wire(request.sampling),
            format=wire.format_from_wire(request.format),
        )

    def _prompt(self, descriptor: Descriptor, request: pb.StepRequest) -> bytes:
        tools, first = _tool_names(descriptor), not descriptor.steps
        return render(descriptor.system, tools, request.messages, first=first, revision=self.revision)

    def _check(self, descriptor: Descriptor, role: FakeRole, request: pb.StepRequest) -> None:
        """Refuses a request that could never be a step of this session."""
        check(requests.step(request))
        check(requests.schema_of_step(request), Reason.INVALID_SCHEMA)
        check(requests.step_of_role(request, role))
        if descriptor.head.length + len(self._prompt(descriptor, request)) >= self.context_tokens:
            raise Refused(Reason.STEP_TOO_LONG, f"log and step do not fit {self.context_tokens} tokens of context")
        constraint, names = wire.format_from_wire(request.format), _tool_names(descriptor)
        required = isinstance(constraint, ToolChoice) and constraint.mode is ToolChoiceMode.REQUIRED
        if required and (not names or constraint.name not in ("", *names)):
            raise Refused(Reason.INVALID_REQUEST, f"format: the session has no tool {constraint.name!r}")


def _tool_names(descriptor: Descriptor) -> list[str]:
    return [tool["name"] for tool in descriptor.tools]


def _follow(head: Head, packed: bytes) -> Head:
    return Head(head.length + len(packed) // ID_BYTES, extend(head.log_hash, packed))


def _is_former(descriptor: Descriptor, head: Head | None) -> bool:
    """Whether `head` is the last one of the log before the current one."""
    former = descriptor.former
    return former is not None and head == former.head and head.generation in (0, descriptor.generation - 1)


def _written_before(committed: AlreadyCommitted) -> _Written:
    stored, ids = committed.entry.output, bytes(iter(unpack_ids(committed.output_ids)))
    message, reason = from_record(stored["message"], pb.Message), pb.FinishReason.Value(committed.entry.finish_reason)
    lineage = [AttemptRef(epoch, bytes.fromhex(nonce)) for epoch, nonce in stored["attempts"]]
    return _Written(lineage, FakeOutput(ids, stored["text"], message, reason))
