"""Random work for an engine, and what its outputs must be: the machine and the seeded runs of the tests share it."""

import random
from dataclasses import dataclass
from typing import Any

from engine_driver import Answer, EngineDriver
from roost_worker.engine.messages import BACKGROUND, Cancel, Evict, Finish, Hold, Pause, StopReason
from roost_worker.engine.retention import RetentionPolicy

SESSIONS = ("a", "b", "c")
TENANTS = (b"one", b"two")
CONTEXT = 32


@dataclass(frozen=True)
class Work:
    """A request to make. Few different ids, so that prefixes meet."""

    session: str | None
    keep_log: bool
    """Whether the session's log comes before the prompt, or the prompt begins anew."""
    prompt: list[int]
    replayed: int
    priority: int
    grammar: str | None
    sampling: dict[str, Any]


def _tenant_of(session: str) -> bytes:
    return TENANTS[SESSIONS.index(session) % 2]


class EngineModel:
    """An engine and the sessions' logs beside it; every operation ends with the checks of the driver."""

    def __init__(
        self,
        blocks: int,
        batch: int,
        running: int,
        policy: RetentionPolicy | None = None,
        host_slots: int = 0,
        drafts: int = 0,
        *,
        ahead: bool = False,
    ) -> None:
        self.driver = EngineDriver(
            blocks=blocks,
            context=CONTEXT,
            running=running,
            batch=batch,
            policy=policy,
            host_slots=host_slots,
            drafts=drafts,
            ahead=ahead,
        )
        self._probe = EngineDriver(blocks=16, context=self.driver.engine.info.context_tokens)
        self._logs: dict[str, list[int]] = {session: [] for session in SESSIONS}
        self._judged: set[str] = set()
        self._cut: set[str] = set()
        self._count = 0

    def live(self) -> list[str]:
        """Requests that have not ended."""
        return [name for name, answer in self.driver.answers.items() if answer.stop is None]

    def started(self) -> list[str]:
        """Live requests with output."""
        return [name for name in self.live() if self.driver.answers[name].token_ids]

    def submit(self, work: Work) -> None:
        limit = self.driver.engine.info.context_tokens
        log = self._logs[work.session] if work.session and work.keep_log else []
        context = [*log, *work.prompt] if len(log) + len(work.prompt) < limit else work.prompt[: limit - 1]
        self._count += 1
        earlier = self._probe.submit(f"p{self._count}", context, **work.sampling)
        self.driver.submit(
            f"r{self._count}",
            context,
            output=self.driver.expected(earlier.request)[: work.replayed],
            session=work.session,
            tenant=_tenant_of(work.session) if work.session else TENANTS[self._count % 2],
            priority=work.priority,
            grammar=work.grammar,
            **work.sampling,
        )

    def cancel(self, name: str) -> None:
        self._cut.add(name)
        self.driver.send(Cancel(name))

    def finish(self, name: str, back: int) -> None:
        """Finishes `back` tokens before the last one that came out."""
        answer = self.driver.answers[name]
        replayed = len(answer.request.token_ids) - answer.request.prompt_len
        self._cut.add(name)
        self.driver.send(Finish(name, max(0, replayed + len(answer.token_ids) - back)))

    def evict(self, session: str) -> None:
        self.driver.send(Evict(session))

    def hold(self, session: str, seconds: float) -> None:
        self.driver.send(Hold(session, seconds))

    def rebuild_ahead(self, session: str, pause: Pause) -> None:
        """Rebuilds a session ahead of its return, once nothing else is under way. What is expected sooner stays."""
        self.run()
        log = self._logs[session]
        if not 0 < len(log) < self.driver.engine.info.context_tokens:
            return
        now, due = self.driver.now, self.driver.now - pause.seconds_ago + pause.expect_seconds
        sooner = {
            parked.session: len(parked.ids)
            for parked in self.driver.engine._cache.parked
            if parked.session != session and now < parked.held_until < due
        }
        self._count += 1
        name = f"r{self._count}"
        self._judged.add(name)
        answer = self.driver.submit(
            name,
            log,
            session=session,
            tenant=_tenant_of(session),
            priority=BACKGROUND,
            pause=pause,
            max_tokens=1,
        )
        self.driver.run()
        assert {session: self.driver.resident.get(session, 0) for session in sooner} == sooner
        if answer.stop is not StopReason.CANCELLED:
            assert self.driver.resident[session] == len(log)
            parked = self.driver.engine._cache.parked.get(session)
            assert parked is not None
            assert parked.held_until == due

    def pass_time(self, seconds: float) -> None:
        self.driver.now += seconds

    def corrupt(self, slot: int) -> None:
        """Corrupts the copy in a slot of host memory."""
        self.driver.runner.corrupted.add(slot)

    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.driver.iterate()
        self._check_reports()
        self._judge_all()

    def run(self) -> None:
        """Runs until idle: every request has ended and no block is in use."""
        self.driver.run()
        self._check_reports()
        self._judge_all()
        assert not self.live()
        stats = self.driver.engine.stats
        assert (stats.running, stats.waiting, stats.blocks_in_use) == (0, 0, 0)

    def _check_reports(self) -> None:
        """The shell knows from the reports what is parked, but for sessions that run."""
        live = {self.driver.answers[name].request.session for name in self.live()}
        parked = {
            parked_session.session: len(parked_session.ids) for parked_session in self.driver.engine._cache.parked
        }
        for session in {*parked, *self.driver.resident} - live:
            assert parked.get(session) == self.driver.resident.get(session)
        host = self.driver.engine._cache.host
        for session in SESSIONS if host.slots.total else ():
            cached = host._chains.blocks(session) * self.driver.runner.info.block_tokens
            assert self.driver.warm.get(session, 0) == max(0, cached - self.driver.resident.get(session, 0))
        for evicted in self.driver.evicted:
            assert evicted.tokens > 0
            if evicted.for_session:
                assert _tenant_of(evicted.for_session) == _tenant_of(evicted.session)

    def _judge_all(self) -> None:
        for name, answer in self.driver.answers.items():
            if name not in self._judged and answer.outputs:
                self._judge(name, answer)

    def _judge(self, name: str, answer: Answer) -> None:
        expected, request = self.driver.expected(answer.request), answer.request
        if request.grammar and request.grammar.startswith("tokens"):
            replayed = len(request.token_ids) - request.prompt_len
            expected = expected[: max(0, int(request.grammar.partition(":")[2]) - replayed)]
        assert answer.token_ids == expected[: len(answer.token_ids)]
        if answer.stop is None:
            return
        self._judged.add(name)
        assert answer.stop is not StopReason.FAILED
        assert name in self._cut or answer.token_ids == expected
        if request.session and answer.stop is not StopReason.CANCELLED:
            self._logs[request.session] = [*request.token_ids, *answer.token_ids]


def random_work(rng: random.Random) -> Work:
    """A request of few different ids."""
    return Work(
        session=rng.choice([*SESSIONS, None]),
        keep_log=rng.random() < 0.8,
        prompt=[int(rng.random() < 0.2) for _ in range(rng.randint(1, 12))],
        replayed=rng.choice([0, 0, 0, 1, 4]),
        priority=rng.randint(0, 2),
        grammar=rng.choice([None, None, None, "tokens:1", "tokens:3", "force:2", "force:9"]),
        sampling={
            "max_tokens": rng.randint(1, 16),
            "min_tokens": rng.randint(0, 3),
            "stop_token_ids": frozenset(rng.sample(range(50), 2)),
            "seed": rng.randint(0, 3),
        },
    )


def random_operation(model: EngineModel, rng: random.Random) -> None:
    """Do one thing to `model`."""
    kind = rng.random()
    if kind < 0.25:
        model.submit(random_work(rng))
    elif kind < 0.29 and model.live():
        model.cancel(rng.choice(model.live()))
    elif kind < 0.35 and model.started():
        model.finish(rng.choice(model.started()), rng.randint(0, 5))
    elif kind < 0.39:
        model.evict(rng.choice(SESSIONS))
    elif kind < 0.44:
        model.hold(rng.choice(SESSIONS), rng.choice([0.0, 1.0, 30.0]))
    elif kind < 0.49:
        model.pass_time(rng.choice([0.5, 20.0]))
    elif kind < 0.57 and model.driver.runner.host:
        model.corrupt(rng.randrange(len(model.driver.runner.host)))
    else:
        model.step(rng.randint(1, 4))
