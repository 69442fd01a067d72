"""Whatever is submitted, cancelled, finished, held and evicted in whatever order: outputs are those without pages."""

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from engine_model import SESSIONS, EngineModel, Work, random_operation
from roost_worker.engine.messages import Pause

WORK = st.builds(
    Work,
    session=st.sampled_from([*SESSIONS, None]),
    keep_log=st.integers(0, 3).map(bool),
    prompt=st.lists(st.integers(0, 1), min_size=1, max_size=14),
    replayed=st.sampled_from([0, 0, 0, 1, 4, 20]),
    priority=st.integers(0, 2),
    grammar=st.sampled_from([None, None, None, "tokens:1", "tokens:3", "force:2", "force:9"]),
    sampling=st.fixed_dictionaries(
        {
            "max_tokens": st.integers(1, 16),
            "min_tokens": st.integers(0, 3),
            "stop_token_ids": st.frozensets(st.integers(0, 49), max_size=2),
            "seed": st.integers(0, 3),
        }
    ),
)


class EngineMachine(RuleBasedStateMachine):
    """Few blocks, so that sequences are preempted and evicted. Shrinks what the seeded runs find."""

    @initialize(
        blocks=st.integers(4, 12),
        batch=st.sampled_from([3, 4, 5, 9, 32]),
        running=st.integers(1, 3),
        host_slots=st.sampled_from([0, 1, 3, 16]),
        drafts=st.sampled_from([0, 1, 3, 16]),
        ahead=st.booleans(),
    )
    def start(self, blocks: int, batch: int, running: int, host_slots: int, drafts: int, *, ahead: bool) -> None:
        self.model = EngineModel(blocks, batch, running, host_slots=host_slots, drafts=drafts, ahead=ahead)

    @rule(slot=st.integers(0, 15))
    def corrupt(self, slot: int) -> None:
        self.model.corrupt(slot)

    @rule(works=st.lists(WORK, min_size=1, max_size=4))
    def submit(self, works: list[Work]) -> None:
        for work in works:
            self.model.submit(work)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if live := self.model.live():
            self.model.cancel(data.draw(st.sampled_from(live)))

    @rule(data=st.data(), back=st.integers(0, 5))
    def finish(self, data: st.DataObject, back: int) -> None:
        if started := self.model.started():
            self.model.finish(data.draw(st.sampled_from(started)), back)

    @rule(session=st.sampled_from(SESSIONS))
    def evict(self, session: str) -> None:
        self.model.evict(session)

    @rule(session=st.sampled_from(SESSIONS), seconds=st.sampled_from([0.0, 1.0, 30.0]))
    def hold(self, session: str, seconds: float) -> None:
        self.model.hold(session, seconds)

    @rule(
        session=st.sampled_from(SESSIONS),
        pause=st.builds(Pause, st.sampled_from([0.0, 2.0, 25.0]), st.sampled_from([0.5, 8.0, 40.0])),
    )
    def rebuild_ahead(self, session: str, pause: Pause) -> None:
        self.model.rebuild_ahead(session, pause)

    @rule(seconds=st.sampled_from([0.5, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.model.pass_time(seconds)

    @rule(steps=st.integers(1, 12))
    def step(self, steps: int) -> None:
        self.model.step(steps)

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.model.run()


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_seeded_runs_under_pressure() -> None:
    """Long runs reach what short examples seldom do; the totals show that they did."""
    preemptions = hits = dropped = right = wrong = ahead = 0
    for seed in range(60):
        rng = random.Random(seed)
        model = EngineModel(
            blocks=rng.randint(4, 14),
            batch=rng.choice([4, 5, 9, 32]),
            running=rng.randint(2, 4),
            drafts=rng.choice([0, 2, 16]),
            ahead=rng.choice([False, True]),
        )
        for _ in range(120):
            random_operation(model, rng)
        model.run()
        stats = model.driver.engine.stats
        preemptions += stats.preemptions
        hits += stats.hit_tokens
        dropped += len(model.driver.dropped)
        right += stats.right_draft_tokens
        wrong += stats.draft_tokens - stats.right_draft_tokens
        ahead += model.driver.steps_ahead
    assert preemptions > 50
    assert hits > 1000
    assert dropped > 200
    assert min(right, wrong) > 50
    assert ahead > 50
