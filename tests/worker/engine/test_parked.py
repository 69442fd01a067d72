"""Parked sequences and their holds against a model."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roost_worker.engine.parked import ParkedSequence, ParkedSequences, common_prefix

BLOCK = 4
SESSIONS = st.sampled_from(["a", "b", "c"])
IDS = st.lists(st.integers(0, 1), max_size=12)


def parked_sequence(session: str, tokens: int) -> ParkedSequence:
    blocks = array("i", range(1, 1 - (-tokens // BLOCK)))
    return ParkedSequence(session, b"key", array("i", range(tokens)), blocks, 1, 0.0)


class ParkedMachine(RuleBasedStateMachine):
    """Which sessions are parked with how many tokens, and until when they are held."""

    def __init__(self) -> None:
        super().__init__()
        self.parked = ParkedSequences()
        self.tokens: dict[str, int] = {}
        self.held: dict[str, float] = {}
        self.now = 0.0

    @rule(session=SESSIONS, tokens=st.integers(1, 13))
    def add(self, session: str, tokens: int) -> None:
        if session in self.tokens:
            with pytest.raises(AssertionError, match="parked already"):
                self.parked.add(parked_sequence(session, tokens))
        else:
            self.parked.add(parked_sequence(session, tokens))
            self.tokens[session] = tokens

    @rule(session=SESSIONS)
    def pop(self, session: str) -> None:
        popped = self.parked.pop(session)
        self.held.pop(session, None)
        assert (len(popped.ids) if popped else None) == self.tokens.pop(session, None)

    @rule(session=SESSIONS)
    def pop_block(self, session: str) -> None:
        parked = self.parked.get(session)
        if parked and len(parked.blocks) > 1:
            kept = (self.tokens[session] - 1) // BLOCK * BLOCK
            parked.pop_block(BLOCK)
            self.tokens[session] = kept
            assert parked.ids == array("i", range(kept))

    @rule(session=SESSIONS, seconds=st.sampled_from([1.0, 5.0]))
    def hold(self, session: str, seconds: float) -> None:
        self.parked.hold(session, self.now + seconds)
        if session in self.tokens:
            self.held[session] = self.now + seconds

    @rule(session=SESSIONS)
    def end_hold(self, session: str) -> None:
        ended = self.parked.end_hold(session)
        held_until = self.held.pop(session, 0.0)
        assert ended or held_until <= self.now

    @rule(seconds=st.sampled_from([0.5, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def agrees(self) -> None:
        self.parked.check_integrity(BLOCK)
        assert {entry.session: len(entry.ids) for entry in self.parked} == self.tokens
        assert len(self.parked) == len(self.tokens)
        live = {session for session, until in self.held.items() if until > self.now}
        assert self.parked.held(self.now) == len(live)
        assert {entry.session for entry in self.parked if entry.held_until > self.now} == live


TestParked = ParkedMachine.TestCase
TestParked.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@given(IDS, IDS, IDS)
def test_common_prefix(shared: list[int], left: list[int], right: list[int]) -> None:
    first, second = [*shared, *left], [*shared, *right]
    expected = 0
    while expected < min(len(first), len(second)) and first[expected] == second[expected]:
        expected += 1
    assert common_prefix(array("i", first), array("i", second)) == expected
