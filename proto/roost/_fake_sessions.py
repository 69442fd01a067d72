"""Sessions of the fake gateway, in memory, with the rules of the real one. Pure but for the clock and random names."""

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from roost._fake_output import FakeOutput, render
from roost.contract.heads import Head
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.loghash import extend, pack_ids
from roost.contract.names import new_session_id
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.v1 import session_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class FakeRole:
    """A role of the fake pool. 0 means no limit."""

    name: str = "default"
    max_steps: int = 0
    budget_tokens: int = 0
    max_output_tokens: int = 4096


@dataclass(slots=True)
class FakeAttempt:
    """A try at a step, with what it has written so far."""

    attempt: pb.Attempt
    step_id: str
    digest: bytes
    seed: int
    output: FakeOutput | None = None
    continues: set[bytes] = field(default_factory=set)
    """Nonces of attempts whose output is the beginning of this one's."""
    orphaned_at: float | None = None
    """When its gateway "died", by `time.monotonic`; its lease lasts on from then."""

    @property
    def lease_seconds(self) -> float:
        """Seconds that its lease lasts unless it is renewed."""
        if self.orphaned_at is None:
            return LEASE_TTL_SECONDS
        return self.orphaned_at + LEASE_TTL_SECONDS - time.monotonic()


@dataclass(slots=True)
class FakeSession:
    """One session: its record, its log, and the attempt that may commit."""

    record: pb.Session
    tenant: str
    role: FakeRole
    system: str
    tools: Sequence[pb.Tool]
    log: list[pb.CommittedStep] = field(default_factory=list)
    older: list[tuple[str, list[pb.CommittedStep]]] = field(default_factory=list)
    """Revision and log of each generation before, oldest first."""
    live: FakeAttempt | None = None
    committed: dict[str, FakeAttempt] = field(default_factory=dict)
    """Step id to the attempt that committed it."""
    epoch: int = 0
    cached: int = 0
    """Tokens of the log whose KV "is there"."""

    def describe(self) -> pb.Session:
        """The record as an answer."""
        session = pb.Session()
        session.CopyFrom(self.record)
        session.head.CopyFrom(self.head)
        session.steps = len(self.log)
        session.tier = pb.TIER_HOT if self.cached else pb.TIER_COLD
        session.worker = "fake-worker" if self.cached else ""
        session.cached_tokens = self.cached
        session.running_step_id = self.live.step_id if self.live else ""
        if self.role.budget_tokens:
            session.budget_remaining_tokens = max(0, self.role.budget_tokens - self.spent)
        return session

    @property
    def head(self) -> pb.Head:
        return self.log[-1].head if self.log else pb.Head(generation=self.record.generation)

    @property
    def spent(self) -> int:
        return self.record.usage.prompt_tokens + self.record.usage.output_tokens

    def check_head(self, expected: pb.Head) -> None:
        """Refuses a client that has seen more than the log has, or less. The last head of the log before is as good as
        what migration made of it."""
        if self.is_former(expected):
            if len(self.older[-1][1]) == len(self.log):
                return
            raise self._wrong_head(Reason.HEAD_MISMATCH, "the log has steps that expected_head does not know")
        heads = {entry.head.length: entry.head.log_hash for entry in self.log} | {0: b""}
        older = 0 < expected.generation < self.record.generation
        if not older and heads.get(expected.length) != expected.log_hash:
            raise self._wrong_head(Reason.SESSION_ROLLED_BACK, "the store has lost the end of this session's log")
        if older or expected.length < self.head.length:
            raise self._wrong_head(Reason.HEAD_MISMATCH, "the log has steps that expected_head does not know")

    def is_former(self, head: pb.Head) -> bool:
        """Whether `head` is the last one of the log before."""
        if not self.older:
            return False
        former = self.older[-1][1][-1].head
        same = (head.length, head.log_hash) == (former.length, former.log_hash)
        return same and head.generation in (0, former.generation)

    def follow(self, entry: pb.CommittedStep, prompt: bytes, output: bytes) -> None:
        """Gives an entry its tokens after those of the log, and the head that they lead to."""
        before, ids = self.head, [*prompt, *output]
        entry.prompt_token_ids[:], entry.output_token_ids[:] = prompt, output
        entry.head.length = before.length + len(ids)
        entry.head.log_hash = extend(before.log_hash, pack_ids(ids))
        entry.head.generation = self.record.generation

    def _wrong_head(self, reason: Reason, message: str) -> Refused:
        return Refused(reason, message, metadata=Head(self.head.length, self.head.log_hash).to_metadata())

    def check_idle(self) -> None:
        left = self.live.lease_seconds if self.live else 0.0
        if left > 0.0:
            raise Refused(Reason.ANOTHER_STEP_RUNNING, "another step of this session is running", retry_seconds=left)

    def check_open(self) -> None:
        if self.record.state == pb.SESSION_STATE_CLOSED:
            raise Refused(Reason.SESSION_CLOSED, "the session is closed; open another")

    def begin(self, request: pb.StepRequest) -> "FakeAttempt | pb.CommittedStep":
        """Takes an attempt, or returns the step that was committed under this id."""
        digest = _digest(request)
        known = self.committed.get(request.step_id) or self._live_at(request.step_id)
        if known is not None and known.digest != digest:
            raise Refused(Reason.STEP_ID_REUSED, "step_id has been used for a step with other content")
        for log in (*(log for _, log in self.older), self.log):  # the oldest has what was written then
            for entry in log:
                if entry.step_id == request.step_id:
                    return entry
        self.check_open()
        if request.HasField("expected_head"):
            self.check_head(request.expected_head)
        if self._live_at(request.step_id) is None:
            self.check_idle()
        self._check_limits()
        return self._take(request, digest)

    def _live_at(self, step_id: str) -> FakeAttempt | None:
        return self.live if self.live is not None and self.live.step_id == step_id else None

    def _check_limits(self) -> None:
        if self.role.max_steps and len(self.log) >= self.role.max_steps:
            raise Refused(Reason.STEP_LIMIT_REACHED, "the session has taken all steps its role allows")
        if self.role.budget_tokens and self.spent >= self.role.budget_tokens:
            raise Refused(Reason.BUDGET_EXHAUSTED, "the session has used its role's token budget")

    def _take(self, request: pb.StepRequest, digest: bytes) -> FakeAttempt:
        self.epoch += 1
        old = self._live_at(request.step_id)
        given = request.sampling.HasField("seed")
        seed = old.seed if old else request.sampling.seed if given else secrets.randbits(63)
        attempt = pb.Attempt(epoch=self.epoch, nonce=secrets.token_bytes(16))
        self.live = FakeAttempt(attempt, request.step_id, digest, seed)
        if old is not None and old.output is not None:
            self.live.output = old.output
            self.live.continues = old.continues | {old.attempt.nonce}
        self.record.ClearField("hold")
        return self.live

    def prompt(self, request: pb.StepRequest) -> bytes:
        revision = self.record.model_revision
        return render(self.system, self.tools, request.messages, first=not self.log, revision=revision)

    def commit(self, attempt: FakeAttempt, request: pb.StepRequest, output: FakeOutput) -> pb.CommittedStep:
        """Appends the step. Refuses when a newer attempt took it over."""
        if self.live is not attempt:
            raise Refused(Reason.ATTEMPT_FENCED, "a newer attempt has taken this step over")
        prompt = self.prompt(request)
        entry = pb.CommittedStep(
            step_id=request.step_id,
            index=len(self.log),
            messages=request.messages,
            output=output.message,
            finish_reason=output.finish_reason,
            usage=self._usage(len(prompt), len(output.ids)),
            sampling=request.sampling,
            commit_time=_now(),
        )
        self.follow(entry, prompt, output.ids)
        entry.sampling.seed = attempt.seed
        if request.HasField("format"):
            entry.format.CopyFrom(request.format)
        self._append(entry)
        self.committed[request.step_id] = attempt
        return entry

    def orphan(self, attempt: FakeAttempt) -> None:
        """The attempt's gateway is gone: it keeps others out for one lease more, and can be taken over."""
        attempt.orphaned_at = time.monotonic()

    def abandon(self, attempt: FakeAttempt) -> None:
        """Ends an attempt that will not commit."""
        if self.live is attempt:
            self.live = None

    def roll_back(self, steps: int) -> None:
        """Forgets the last steps, as a failover of the store can."""
        kept = max(0, len(self.log) - steps)
        for entry in self.log[kept:]:
            del self.committed[entry.step_id]
        del self.log[kept:]
        self.cached = min(self.cached, self.head.length)

    def _usage(self, prompt: int, output: int) -> pb.Usage:
        lost = self.head.length - self.cached
        return pb.Usage(
            prompt_tokens=prompt, output_tokens=output, cached_tokens=self.cached, reconstructed_tokens=lost
        )

    def _append(self, entry: pb.CommittedStep) -> None:
        self.log.append(entry)
        self.live = None
        self.cached = entry.head.length
        for name in ("prompt_tokens", "output_tokens", "cached_tokens", "reconstructed_tokens"):
            setattr(self.record.usage, name, getattr(self.record.usage, name) + getattr(entry.usage, name))
        self.record.update_time.CopyFrom(_now())

    def evict(self) -> int:
        self.check_idle()
        evicted, self.cached = self.cached, 0
        return evicted


def new_session(request: pb.OpenSessionRequest, pool: str, role: FakeRole, tenant: str, revision: str) -> FakeSession:
    """A session as OpenSession makes it."""
    record = pb.Session(
        id=new_session_id(pool),
        pool=pool,
        role=role.name,
        task=request.task,
        parent_session_id=request.parent_session_id,
        model="fake",
        model_revision=revision,
        generation=1,
        state=pb.SESSION_STATE_ACTIVE,
        create_time=_now(),
        update_time=_now(),
        labels=dict(request.labels),
    )
    return FakeSession(record, tenant, role, request.system, tuple(request.tools))


def _digest(request: pb.StepRequest) -> bytes:
    """Of what makes two steps the same: not of the cursor and head, which change from try to try."""
    content = pb.StepRequest()
    content.CopyFrom(request)
    content.ClearField("expected_head")
    content.ClearField("received")
    return hashlib.blake2b(content.SerializeToString(deterministic=True), digest_size=16).digest()


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now
