"""What sessions, tasks, roles and tenants use in the store in memory: what `_budgets.lua` does. Pure."""

from collections.abc import Iterator
from dataclasses import replace

from roost.contract.budgets import BudgetScope, BudgetStatus
from roost.contract.reasons import Reason
from roost.store.budgets import Account, Budget, BudgetRules, ExtendRequest, Spending
from roost.store.memory_session import MemorySession
from roost.store.records import LogEntry
from roost.store.repetition import (
    KEPT_OF_SESSION,
    KEPT_OF_TASK,
    calls_hash,
    cycle,
    occurrences,
    repetition_from_text,
    with_calls,
)
from roost.store.rules import opens_turn

_Key = tuple[BudgetScope, str]


class MemoryAccounts:
    """The accounts of a pool, but for those of its sessions, which their records have."""

    def __init__(self) -> None:
        self._accounts: dict[_Key, Account] = {}
        self._expires_ms: dict[_Key, int] = {}

    def warnings(self, session: MemorySession, rules: BudgetRules, now: int) -> tuple[BudgetStatus, ...]:
        """The budgets of which as much is used as the rules warn at."""
        used = self._used(session, rules, rules.warn_percent, now)
        return tuple(budget.status(account) for budget, account in used)

    def is_grace(self, session: MemorySession, rules: BudgetRules, now: int) -> bool:
        """Whether a step is a step of grace. Refuses: BUDGET_EXCEEDED, BUDGET_PAUSED when no grace is left."""
        for budget, account in self._used(session, rules, 100, now):
            own = session.record.account
            if own.steps == 0 or own.grace_steps >= rules.grace_steps:
                asks = rules.asks and not budget.window_ms
                reason = Reason.BUDGET_PAUSED if asks else Reason.BUDGET_EXCEEDED
                ends_in = budget.window_ms - now % budget.window_ms if budget.window_ms else 0
                raise session.refusal(reason, ends_in, budget.status_text(account))
            return True
        return False

    def check_repetition(self, session: MemorySession, rules: BudgetRules, *, opens_turn: bool) -> None:
        """Refuses: REPETITION_STOPPED in a turn whose calls repeat, if that stops the session."""
        repeats = session.record.account.repeats
        if rules.stops and repeats and not opens_turn:
            raise session.refusal(Reason.REPETITION_STOPPED, detail=repeats)

    def note_calls(self, session: MemorySession, rules: BudgetRules, entry: LogEntry, now: int) -> None:
        """Notes the calls of a step, and whether they repeat others. A step that opens a turn begins again."""
        own, calls, repeats = session.record.account, calls_hash(entry.output.get("tool_calls", ())), ""
        if not rules.repeats and not rules.task_repeats:
            session.change(account=replace(own, calls="", repeats=""))
            return
        before = own.calls if calls and not opens_turn(entry) else ""
        hashes = with_calls(before, calls, KEPT_OF_SESSION)
        if calls and rules.repeats and (round_ := cycle(hashes, rules.repeats)):
            repeats = f"session:{round_[0]}:{round_[1]}"
        if calls and rules.task and rules.task_repeats:
            times = self._add_task_calls(rules, calls, now)
            if not repeats and times >= rules.task_repeats:
                repeats = f"task:1:{times}"
        session.change(account=replace(own, calls=hashes, repeats=repeats))

    def _add_task_calls(self, rules: BudgetRules, calls: str, now: int) -> int:
        """Returns how often the task's sessions have made them."""
        key = _task_key(rules.tenant, rules.task)
        task = self._read(key, now)
        hashes = with_calls(task.calls, calls, KEPT_OF_TASK)
        self._accounts[key] = replace(task, calls=hashes)
        return occurrences(hashes, calls)

    def answered(self, entry: LogEntry, session: MemorySession, rules: BudgetRules, now: int) -> LogEntry:
        """A committed step as Commit answers it."""
        repetition = repetition_from_text(session.record.account.repeats)
        return replace(entry, budgets=self.warnings(session, rules, now), repetition=repetition)

    def start_clocks(self, session: MemorySession, rules: BudgetRules, now: int) -> None:
        """Notes when the first step began."""
        session.change(account=session.record.account.started(now))
        if rules.task:
            task = _task_key(rules.tenant, rules.task)
            self._keep(task, self._read(task, now).started(now), rules.task_ttl_ms, now)

    def spend(
        self, session: MemorySession, rules: BudgetRules, spending: Spending, *, is_grace: bool, now: int
    ) -> None:
        """Counts what a step has used."""
        own = session.record.account
        session.change(account=own.add(spending).with_grace(own.grace_steps + 1 if is_grace else 0))
        if rules.task:
            task = _task_key(rules.tenant, rules.task)
            self._keep(task, self._read(task, now).add(spending), rules.task_ttl_ms, now)
        for scope, window_ms in rules.windows.items():
            key = _key(scope, rules)
            self._accounts[key] = self._read(key, now, window_ms).add(spending)

    def extend(self, session: MemorySession, request: ExtendRequest, now: int) -> None:
        """Raises limits."""
        if request.scope is BudgetScope.SESSION:
            session.change(account=session.record.account.extend(request.spending, request.request_id))
        else:
            key = _task_key(request.tenant, request.task)
            extended = self._read(key, now).extend(request.spending, request.request_id)
            self._keep(key, extended, request.task_ttl_ms, now)

    def _used(
        self, session: MemorySession, rules: BudgetRules, percent: int, now: int
    ) -> Iterator[tuple[Budget, Account]]:
        """Budgets of which at least `percent` is used, each with its account."""
        for budget in rules.applying:
            account = self._of(session, rules, budget, now)
            if budget.is_used(account, percent):
                yield budget, account

    def _of(self, session: MemorySession, rules: BudgetRules, budget: Budget, now: int) -> Account:
        if budget.scope is BudgetScope.SESSION:
            return session.record.account.read(now)
        return self._read(_key(budget.scope, rules), now, budget.window_ms)

    def _read(self, key: _Key, now: int, window_ms: int = 0) -> Account:
        if 0 < self._expires_ms.get(key, 0) <= now:
            self._accounts.pop(key, None)
        return self._accounts.get(key, Account()).read(now, window_ms)

    def _keep(self, key: _Key, account: Account, ttl_ms: int, now: int) -> None:
        self._accounts[key] = account
        self._expires_ms[key] = now + ttl_ms if ttl_ms else 0


def _key(scope: BudgetScope, rules: BudgetRules) -> _Key:
    if scope is BudgetScope.TASK:
        return _task_key(rules.tenant, rules.task)
    return scope, rules.role if scope is BudgetScope.ROLE else rules.tenant


def _task_key(tenant: str, task: str) -> _Key:
    return BudgetScope.TASK, f"{tenant}:{task}"
