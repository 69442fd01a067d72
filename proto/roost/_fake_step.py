"""The way of a step through the fake gateway: begin, write, stream, commit; and the mishaps on the way."""

import inspect
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from roost._fake_output import FakeOutput, Turn, make_output, render
from roost.contract import requests
from roost.contract.events import Event, Restarted, Started
from roost.contract.heads import AttemptRef, Head
from roost.contract.lease import LEASE_TTL_MS
from roost.contract.loghash import extend, pack_ids, unpack_ids
from roost.contract.messages import JsonSchema, Message, MessageRole, Tool, ToolChoice, ToolChoiceMode
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, check
from roost.contract.steps import Cursor, Deltas, StepRequest
from roost.contract.why import Place, Why
from roost.store.budget_requests import budget_rules
from roost.store.budgets import BudgetRules
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
from roost.store.rules import ID_BYTES, rebuild_cause
from roost.store.values import (
    content_digest,
    finish_reason_from_record,
    finish_reason_to_record,
    format_to_record,
    message_from_record,
    message_to_record,
    sampling_to_record,
    why_to_record,
)
from roost.store.views import committed, last_migration, unknown_migration

WORKER = "fake-worker"
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


@dataclass(slots=True)
class _Written:
    """An attempt's output, and the attempts that wrote it or its beginning: the last of them is the attempt itself."""

    lineage: list[AttemptRef]
    output: FakeOutput | None = None


@dataclass(slots=True)
class StepRunner:
    """Runs steps of a pool's sessions. `reply` writes the output, `delta_tokens` is the size of its pieces."""

    store: MemoryStore
    pool: PoolDocument
    reply: Reply
    delta_tokens: int
    _running: dict[AttemptRef, RenewItem] = field(default_factory=dict)
    _written: dict[AttemptRef, _Written] = field(default_factory=dict)

    async def renew(self) -> None:
        """Renews the leases of running attempts; to be called before anything that looks at them."""
        await self.store.renew(self.pool.pool, list(self._running.values()), LEASE_TTL_MS)

    async def run(self, descriptor: Descriptor, request: StepRequest, mishap: Mishap) -> AsyncIterator[Event]:
        """The events of a step. Raises Refused and BrokenStreamError."""
        self._check(descriptor, request)
        began = await self.store.begin(self.begin_request(descriptor, request))
        if isinstance(began, AlreadyCommitted):
            for event in self._stream(_written_before(began), request, request.received):
                yield event
            yield committed(began.entry, began.generation, replayed=True)
            return
        self._running[began.ref] = RenewItem(request.session_id, began.ref)
        try:
            moved = await self._to_revision(began)
            migrated = unknown_migration(moved.descriptor, request.expected_head)
            if moved is not began or migrated:
                yield migrated or last_migration(moved.descriptor)
            async for event in self._attempt(moved, request, mishap):
                yield event
        except BrokenStreamError:
            await self.renew()  # its lease lasts on from here
            raise
        except BaseException:  # refused, cancelled, or its client has gone: the session is free again
            await self.store.abort(request.session_id, began.ref)
            raise
        finally:
            del self._running[began.ref]

    def begin_request(self, descriptor: Descriptor, request: StepRequest) -> BeginRequest:
        role, head, seed = self.pool.role(descriptor.role), request.expected_head, request.sampling.seed
        return BeginRequest(
            session_id=request.session_id,
            tenant=descriptor.tenant,
            step_id=request.step_id,
            digest=content_digest(request),
            expected_head=head,
            expected_generation=head.generation if head else 0,
            nonce=secrets.token_bytes(16),
            seed=secrets.randbits(63) if seed is None else seed,
            lease_ms=LEASE_TTL_MS,
            new_tokens=1,  # a real gateway estimates; here a session's last step may exceed its budget
            max_session_tokens=0,
            budget_tokens=role.budget_tokens,
            max_steps=role.max_steps,
            priority=0,
            deadline_ms=0,
            rules=self._rules(descriptor),
            opens_turn=request.messages[0].role is MessageRole.USER,
        )

    def _rules(self, descriptor: Descriptor) -> BudgetRules:
        return budget_rules(descriptor.tenant, descriptor.task, self.pool.role(descriptor.role), self.pool)

    async def _to_revision(self, began: Began) -> Began:
        """Brings a session to the pool's revision before its step. Refuses: MODEL_REVISION_MISMATCH."""
        descriptor, revision = began.descriptor, began.descriptor.model_revision
        if not descriptor.steps or revision == self.pool.active_revision:
            return began
        if not self.pool.migrates:
            raise Refused(Reason.MODEL_REVISION_MISMATCH, f"the session was begun on revision {revision}")
        entries = await self.store.log(descriptor.session_id, descriptor.generation, 0, descriptor.steps)
        descriptor = await self.store.migrate(await self.rendered(began, entries))
        self.store.publish_cached(descriptor.session_id, WORKER, 0)
        return replace(began, descriptor=descriptor, cached_tokens=0)

    async def rendered(self, began: Began, steps: Sequence[LogEntry], summary: str = "") -> MigrateRequest:
        """Steps of a session's log, rendered as the pool's revision does. With `summary`, that is the first one's."""
        old, revision = began.descriptor, self.pool.active_revision
        ids = await self.store.ids(old.session_id, old.generation, 0, old.head.length)
        head, packed, entries = Head(), b"", list[LogEntry]()
        for entry in steps:
            end = entry.head.length * ID_BYTES
            prompt = self._prompt(old, [message_from_record(record) for record in entry.messages], first=not entries)
            output = ids[end - entry.output_tokens * ID_BYTES : end]
            if summary and not entries:
                output = pack_ids([*summary.encode()])
            step = pack_ids([*prompt]) + output
            head, packed = _follow(head, step), packed + step
            renewed = replace(entry, prompt_tokens=len(prompt), output_tokens=len(output) // ID_BYTES, cached_tokens=0)
            entries.append(replace(renewed, reconstructed_tokens=0, head=head, model_revision=revision))
        return MigrateRequest(
            old.session_id, began.ref, old.head, tuple(entries), packed, revision, ttl_ms=0, lease_ms=LEASE_TTL_MS
        )

    async def _attempt(self, began: Began, request: StepRequest, mishap: Mishap) -> AsyncIterator[Event]:
        fenced, received = self._written.get(began.fenced.ref) if began.fenced else None, request.received
        if fenced is None or fenced.output is None:
            fenced = _Written([])
        written = self._written[began.ref] = _Written([*fenced.lineage, began.ref], fenced.output)
        prompt = self._prompt(began.descriptor, request.messages, first=not began.descriptor.steps)
        yield Started(WORKER, len(prompt), began.cached_tokens, began.ref)
        output = written.output = written.output or await self._write(began.descriptor, request)
        if mishap.restart_after is not None:
            for event in self._stream(written, request, received, mishap.restart_after):
                yield event
            written.lineage, received = [began.ref], None
            yield Restarted("asked for by the test", began.ref)
        if mishap.break_after is not None:
            for event in self._stream(written, request, received, mishap.break_after):
                yield event
            raise BrokenStreamError
        rest = self._stream(written, request, received)
        if request.deltas is not Deltas.NONE:
            for event in rest:
                yield event
        entry = await self.store.commit(self._commit_request(began, request, prompt, output, written.lineage))
        self.store.publish_cached(request.session_id, WORKER, entry.head.length)
        for ref in written.lineage:
            self._written.pop(ref, None)
        if mishap.lose_commit:
            raise BrokenStreamError
        for event in rest:  # all output of a step without deltas
            yield event
        yield committed(entry, began.descriptor.generation, replayed=False)

    def _commit_request(
        self, began: Began, request: StepRequest, prompt: bytes, output: FakeOutput, lineage: Sequence[AttemptRef]
    ) -> CommitRequest:
        descriptor, packed = began.descriptor, pack_ids([*prompt, *output.ids])
        attempts = [[ref.epoch, ref.nonce.hex()] for ref in lineage]
        notes = {
            "reasoning": output.reasoning,
            "reasoning_tokens": output.reasoning_tokens,
            "stop_string": output.stop_string,
        }
        given = {name: note for name, note in notes.items() if note} | {"why": why_to_record(_why(began))}
        entry = LogEntry(
            step_id=request.step_id,
            index=descriptor.steps,
            messages=tuple(map(message_to_record, request.messages)),
            output={**message_to_record(output.message), "text": output.text, "attempts": attempts, **given},
            finish_reason=finish_reason_to_record(output.finish_reason),
            prompt_tokens=len(prompt),
            output_tokens=len(output.ids),
            cached_tokens=began.cached_tokens,
            reconstructed_tokens=descriptor.head.length - began.cached_tokens,
            head=_follow(descriptor.head, packed),
            seed=began.seed,
            sampling=sampling_to_record(request.sampling),
            format=format_to_record(request.format),
            model_revision=self.pool.active_revision,
            worker_id=WORKER,
        )
        return CommitRequest(
            session_id=request.session_id,
            ref=began.ref,
            previous=descriptor.head,
            entry=entry,
            packed_ids=packed,
            ttl_ms=0,
            owner=WORKER,
            rules=self._rules(descriptor),
        )

    def _stream(
        self, written: _Written, request: StepRequest, received: Cursor | None, most: int | None = None
    ) -> Iterator[Event]:
        """What the reader lacks of the first `most` tokens; all of them, after Restarted, when what it has belongs to
        another output. A reader without deltas gets all of the output or nothing."""
        assert written.output is not None
        attempt, cursor = written.lineage[-1], received or Cursor(written.lineage[-1])
        if cursor.tokens and cursor.attempt.nonce not in [ref.nonce for ref in written.lineage]:
            cursor = Cursor(attempt)
            yield Restarted("that output is lost", attempt)
        is_held = request.deltas is Deltas.NONE
        size = max(1, len(written.output.ids)) if is_held else self.delta_tokens
        for delta in written.output.deltas(cursor, attempt, size):
            if most is not None and (is_held or delta.token_offset >= most):
                return
            yield delta

    async def _write(self, descriptor: Descriptor, request: StepRequest) -> FakeOutput:
        try:
            reply = self.reply(await self._turn(descriptor, request))
            reply = await reply if inspect.isawaitable(reply) else reply
            if isinstance(request.format, JsonSchema):
                json.loads(reply if isinstance(reply, str) else reply.content)
        except Refused:
            raise
        except Exception as error:
            raise Refused(Reason.INTERNAL, f"the fake gateway's reply function failed: {error!r}") from error
        limit = self.pool.role(descriptor.role).max_output_tokens or self.pool.context_tokens
        return make_output(reply, request.sampling, limit)

    async def _turn(self, descriptor: Descriptor, request: StepRequest) -> Turn:
        log = await self.store.log(descriptor.session_id, descriptor.generation, 0, descriptor.steps)
        tools = [Tool(tool["name"], tool["description"], json.loads(tool["parameters"])) for tool in descriptor.tools]
        return Turn(
            session_id=descriptor.session_id,
            role=descriptor.role,
            system=descriptor.system,
            tools=tuple(tools),
            history=tuple(message_from_record(record) for entry in log for record in (*entry.messages, entry.output)),
            messages=request.messages,
            sampling=request.sampling,
            format=request.format,
        )

    def _prompt(self, descriptor: Descriptor, messages: Sequence[Message], *, first: bool) -> bytes:
        revision = self.pool.active_revision
        return render(descriptor.system, _tool_names(descriptor), messages, first=first, revision=revision)

    def check_opening(self, system: str, tools: Sequence[str]) -> None:
        """Refuses a session whose system text and tools leave no room for a step."""
        prompt = render(system, tools, (), first=True, revision=self.pool.active_revision)
        if len(prompt) >= self.pool.context_tokens:
            raise Refused(
                Reason.STEP_TOO_LONG,
                f"system text and tools have {len(prompt)} tokens, and leave no room in the {self.pool.context_tokens} "
                "tokens of a session",
                metadata={"prompt_tokens": str(len(prompt)), "limit_tokens": str(self.pool.context_tokens)},
            )

    def _check(self, descriptor: Descriptor, request: StepRequest) -> None:
        """Refuses a request that could never be a step of this session."""
        check(requests.step(request))
        check(requests.schema_of_step(request), Reason.INVALID_SCHEMA)
        check(requests.step_of_role(request, self.pool.role(descriptor.role)))
        prompt, context = (
            self._prompt(descriptor, request.messages, first=not descriptor.steps),
            self.pool.context_tokens,
        )
        if descriptor.head.length + len(prompt) >= context:
            raise Refused(Reason.STEP_TOO_LONG, f"log and step do not fit {context} tokens of context")
        constraint, names = request.format, _tool_names(descriptor)
        if isinstance(constraint, ToolChoice) and constraint.mode is ToolChoiceMode.REQUIRED:
            check([] if names and constraint.name in ("", *names) else [("format", f"no tool {constraint.name!r}")])


def _tool_names(descriptor: Descriptor) -> list[str]:
    return [tool["name"] for tool in descriptor.tools]


def _why(began: Began) -> Why:
    session, cached = began.descriptor, began.cached_tokens
    rebuilt = session.head.length - cached
    return Why(
        worker=WORKER,
        place=Place.HOME if session.owner else Place.NO_HOME,
        log_tokens=session.head.length,
        cached_tokens=cached,
        rebuilt_tokens=rebuilt,
        cause=rebuild_cause(session) if rebuilt else None,
    )


def _follow(head: Head, packed: bytes) -> Head:
    return Head(head.length + len(packed) // ID_BYTES, extend(head.log_hash, packed))


def _written_before(stored: AlreadyCommitted) -> _Written:
    output, reason = stored.entry.output, finish_reason_from_record(stored.entry.finish_reason)
    lineage = [AttemptRef(epoch, bytes.fromhex(nonce)) for epoch, nonce in output["attempts"]]
    ids = bytes(iter(unpack_ids(stored.output_ids)))
    message, reasoning = message_from_record(output), output.get("reasoning", "")
    return _Written(lineage, FakeOutput(ids, output["text"], message, reason, reasoning))
