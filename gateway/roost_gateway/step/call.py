"""A checked Step call: its priority class, its limits and its Begin request."""

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from roost.contract.lease import LEASE_TTL_MS
from roost.contract.messages import MessageRole
from roost.contract.pool_document import PoolDocument, PoolRole
from roost.contract.sessions import FoldRequest
from roost.contract.steps import StepRequest
from roost.store.budget_requests import budget_rules
from roost.store.budgets import BudgetRules
from roost.store.entry import UNCOUNTED, Entry
from roost.store.folding import fold_step
from roost.store.records import BeginRequest, Descriptor
from roost.store.service import Demand
from roost.store.values import content_digest
from roost.store.working_set import Admission
from roost_gateway.admission import estimate
from roost_gateway.admission.admission_queue import step_class
from roost_gateway.routing.choice import StepNeed


@dataclass(frozen=True, slots=True)
class Fold:
    """How a session's log is to be folded."""

    summarise: Callable[[], Awaitable[str]]
    """Returns the summary. Raises Refused, StoreAwayError."""
    keep_turns: int
    """Last turns that stay as they are (`roost.store.folding`)."""
    is_for_budget: bool = False
    """Whether the session's budget is used up, and begins again: then fewer turns stay if else nothing were folded."""


@dataclass(frozen=True, slots=True)
class StepCall:
    """One Step call, checked. Times are seconds of `time.monotonic`."""

    request: StepRequest
    tenant: str
    pool: PoolDocument
    role: PoolRole
    facts: estimate.SessionFacts
    bytes_per_token: float
    """As the pool's workers measure it; 0 when that is not known."""
    received_at: float
    deadline: float
    is_implicit: bool = False
    """Whether no client opened the session, but a gateway for a conversation."""
    fold: Fold | None = None
    """Set when the log is folded, and nothing is generated."""
    at_budget: Fold | None = None
    """How the log is folded before the step when the session's budget is used up; None where it is not."""

    @property
    def milliseconds_left(self) -> int:
        return max(1, int((self.deadline - time.monotonic()) * 1000))

    @property
    def ttl_ms(self) -> int:
        """Idle time after which the session is erased once the step is committed; 0: never."""
        return self.pool.implicit_ttl_ms if self.is_implicit else self.pool.idle_ttl_ms

    @property
    def _prompt(self) -> int:
        return estimate.prompt_tokens(self.request, self.facts, self.bytes_per_token)

    @property
    def _output(self) -> int:
        return estimate.max_output_tokens(self.request, self.pool, self.role)

    @property
    def drops_thinking(self) -> bool:
        """Whether the step begins a turn, before which the pool takes the thinking of earlier ones out of the log."""
        return self.fold is None and self.pool.drops_thinking and self.request.messages[0].role is MessageRole.USER

    @property
    def has_log(self) -> bool:
        """Whether the session is known to have a log."""
        head = self.request.expected_head
        return self.facts.continues or (head is not None and head.length > 0)

    def new_tokens(self, log: int) -> int:
        """Estimate of the most tokens that the step adds to a log of `log` tokens."""
        return estimate.new_tokens(self._prompt, self._output, log, self.pool.token_limit)

    @property
    def first_need(self) -> StepNeed:
        """What the step needs of a worker if its session has no log."""
        return StepNeed(
            session_id=self.request.session_id,
            model_revision=self.pool.active_revision,
            log_tokens=0,
            new_tokens=self.new_tokens(0),
            prefix_tokens=self.entry().prefix_tokens,
        )

    def output_limit(self, session: Descriptor) -> int:
        """Most tokens to generate: what was asked for, cut to what the budget and the session's length leave."""
        limits = [
            limit - used
            for limit, used in (
                (self.role.budget_tokens, session.prompt_tokens + session.output_tokens),
                (self.pool.max_session_tokens, session.head.length),
            )
            if limit
        ]
        return estimate.clipped_output(self._output, self._prompt, min(limits, default=None))

    def entry(self, *, passed: bool = False) -> Entry:
        """How the step enters the working set; `passed` when it has been held for long enough."""
        if not self.pool.has_gate:
            return UNCOUNTED
        prefix_tokens = estimate.prefix_tokens(self.facts, self.bytes_per_token)
        return Entry(Admission.PASSED if passed else Admission.GATED, self.facts.prefix, prefix_tokens)

    def priority(self, *, continuation: bool) -> int:
        return step_class(self.role.priority, self.pool.priorities, continuation=continuation)

    @property
    def budget_rules(self) -> BudgetRules:
        return budget_rules(self.tenant, self.facts.task, self.role, self.pool)

    def folding(self, fold: Fold) -> "StepCall":
        """The call that folds the log instead. It uses nothing, and shortens the log, so that nothing limits it."""
        role = PoolRole(self.role.name, self.role.priority)
        unlimited = PoolDocument(self.pool.pool).tenant_budget
        pool = replace(self.pool, context_tokens=0, max_session_tokens=0, tenant_budget=unlimited)
        return replace(self, fold=fold, at_budget=None, role=role, pool=pool)

    def folding_at_budget(self, fold: Fold) -> "StepCall":
        """The call that folds the log before this step. Whatever gateway the step comes to, it is one."""
        request = self.request
        asked = FoldRequest(request.session_id, expected_head=request.expected_head, request_id=f"at {request.step_id}")
        return replace(self, request=fold_step(asked)).folding(fold)

    def begin_request(self, first_worker: str = "") -> BeginRequest:
        """`first_worker` is where to reserve if the session turns out to have no log yet; empty: nowhere."""
        request, head = self.request, self.request.expected_head
        log_tokens = head.length if head else 0
        new = self.new_tokens(log_tokens)
        seed = request.sampling.seed
        return BeginRequest(
            session_id=request.session_id,
            tenant=self.tenant,
            step_id=request.step_id,
            digest=content_digest(request),
            expected_head=head,
            nonce=secrets.token_bytes(16),
            seed=secrets.randbits(63) if seed is None else seed,
            lease_ms=LEASE_TTL_MS,
            new_tokens=new,
            max_session_tokens=estimate.lenient(self.pool.token_limit, new),
            budget_tokens=estimate.lenient(self.role.budget_tokens, new),
            max_steps=self.role.max_steps,
            priority=self.priority(continuation=log_tokens > 0 or self.facts.continues),
            deadline_ms=self.milliseconds_left,
            expected_generation=head.generation if head else 0,
            migrates_to=self.pool.active_revision if self.pool.migrates else "",
            drops_thinking=self.drops_thinking,
            rules=self.budget_rules,
            opens_turn=request.messages[0].role is MessageRole.USER,
            entry=self.entry(),
            demand=Demand(self.pool.weight(self.tenant), self._prompt, 0 if self.fold else self._output),
            first_worker=first_worker,
        )
