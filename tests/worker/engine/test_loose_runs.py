"""Runs of blocks that nobody holds against a plain list of lists."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roost_worker.engine.loose import LooseRun, LooseRuns

BLOCKS = range(1, 9)


class LooseMachine(RuleBasedStateMachine):
    """Which blocks are in which run, in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.loose = LooseRuns()
        self.expected: dict[int, list[int]] = {}

    def loose_blocks(self) -> list[int]:
        return [block for blocks in self.expected.values() for block in blocks]

    @rule(wanted=st.lists(st.sampled_from(BLOCKS), unique=True), now=st.sampled_from([1.0, 2.0]))
    def add(self, wanted: list[int], now: float) -> None:
        if blocks := [block for block in wanted if block not in self.loose_blocks()]:
            run = self.loose.add(blocks, now)
            assert run.last_used == now
            self.expected[run.number] = blocks

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        if blocks := self.loose_blocks():
            block = data.draw(st.sampled_from(blocks))
            run = self.loose.take(block)
            self.expected[run.number].remove(block)
            self.drop_empty(run)

    @rule(data=st.data())
    def take_last(self, data: st.DataObject) -> None:
        if self.expected:
            run = self.loose.get(data.draw(st.sampled_from(sorted(self.expected))))
            assert self.loose.take_last(run) == self.expected[run.number].pop()
            self.drop_empty(run)

    def drop_empty(self, run: LooseRun) -> None:
        if not self.expected[run.number]:
            assert not run.blocks
            del self.expected[run.number]

    @invariant()
    def agrees(self) -> None:
        self.loose.check_integrity()
        assert {run.number: list(run.blocks) for run in self.loose.runs()} == self.expected
        assert self.loose.blocks() == set(self.loose_blocks())
        for block in BLOCKS:
            run = self.loose.run_of(block)
            assert (run is None) == (block not in self.loose_blocks())
            assert run is None or block in self.expected[run.number]


TestLooseRuns = LooseMachine.TestCase
TestLooseRuns.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
