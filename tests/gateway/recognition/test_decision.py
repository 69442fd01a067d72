"""Which sessions a conversation may run in, and in which order they are tried."""

from dataclasses import replace

import pytest

from roost.contract.heads import Head
from roost.contract.messages import Message, MessageRole
from roost.store.conversation_index import MAX_KEYS, EntryState, IndexEntry
from roost_gateway.recognition.chain import Chain, chain, root
from roost_gateway.recognition.conversation import Conversation
from roost_gateway.recognition.decision import Asked, Plan, decide, looked_up

U, A = MessageRole.USER, MessageRole.ASSISTANT
ASKED = Asked(is_named=False, is_retry=False)


def history(rounds: int, family: str = "") -> Chain:
    messages = [Message(role, f"{role} {number}") for number in range(rounds) for role in (U, A)]
    return chain([*messages, Message(U, "now")], root(Conversation("m", family=family), "tenant", "pool"))


def entry(name: str, links: Chain, units: int, state: EntryState = EntryState.HEAD) -> IndexEntry:
    point = next(boundary.point for boundary in links.boundaries if boundary.units == units)
    return IndexEntry(f"a/b/{name}", Head(10 * units, b"h" * 16, 1), units, point.own, point.wide, state)


def plan(links: Chain, *entries: IndexEntry, repeats: tuple[IndexEntry, ...] = (), asked: Asked = ASKED) -> Plan:
    answers: dict[bytes, list[IndexEntry]] = {}
    for known in entries:
        key = known.wide if known.state is EntryState.OTHER_FAMILY else known.own
        answers.setdefault(key, []).append(known)
    return decide(links, answers, repeats, asked)


def names(entries: tuple[IndexEntry, ...]) -> list[str]:
    return [known.session_id.removeprefix("a/b/") for known in entries]


def test_the_request_and_the_latest_boundaries_are_looked_up() -> None:
    links = history(100)
    keys = looked_up(links, b"request")
    assert keys[0] == b"request"
    assert keys[1:] == [boundary.point.own for boundary in reversed(links.boundaries)][: MAX_KEYS - 1]


def test_a_named_conversation_looks_for_others_of_its_tenant_too() -> None:
    links = history(100, "family")
    keys = looked_up(links, b"request")
    last = links.boundaries[-1].point
    assert len(keys) == len(set(keys)) <= MAX_KEYS
    assert (keys[1], keys[1 + MAX_KEYS // 2 - 1]) == (last.own, last.wide)


def test_a_conversation_without_history_tries_nothing() -> None:
    assert plan(history(0)) == Plan((), (), "")


def test_only_sessions_with_the_longest_history_are_continued() -> None:
    links = history(3)
    planned = plan(links, entry("older", links, 2), entry("s", links, 6), entry("twin", links, 6))
    assert (names(planned.candidates), names(planned.forks)) == (["s", "twin"], ["s", "twin", "older"])
    assert planned.reason == ""


def test_what_has_gone_on_is_forked() -> None:
    links = history(3)
    planned = plan(links, entry("s", links, 6, EntryState.PASSED))
    assert (names(planned.candidates), names(planned.forks)) == ([], ["s"])
    assert planned.reason == "the session has gone on after message 6"


def test_what_another_family_has_is_forked() -> None:
    links = history(3, "family")
    other = entry("other", links, 6, EntryState.OTHER_FAMILY)
    planned = plan(links, other, entry("own", links, 2))
    assert (names(planned.candidates), names(planned.forks)) == ([], ["other", "own"])
    assert planned.reason == "the history up to message 6 is another conversation's"


def test_a_fork_has_the_hashes_of_its_own_family() -> None:
    links = history(1, "family")
    other = replace(entry("other", links, 2, EntryState.OTHER_FAMILY), own=b"of the other family")
    assert plan(links, other).forks[0].own == links.boundaries[-1].point.own


def test_the_first_unknown_turn_is_named() -> None:
    links = history(3)
    assert plan(links).reason == "no session has the history up to message 2"
    planned = plan(links, entry("s", links, 2, EntryState.PASSED))
    assert planned.reason == "no session has the history up to message 4"


@pytest.mark.parametrize(
    ("asked", "order"),
    [
        (ASKED, ["idle"]),
        (replace(ASKED, is_named=True), ["idle", "repeated", "busy"]),
        (replace(ASKED, is_retry=True), ["repeated", "busy", "idle"]),
    ],
)
def test_among_equal_conversations_only_a_client_that_says_so_repeats_a_step(asked: Asked, order: list[str]) -> None:
    links = history(1)
    repeated = entry("repeated", links, 2, EntryState.PASSED)
    known = [entry("busy", links, 2), entry("idle", links, 2), repeated]
    planned = plan(links, *known, repeats=(repeated,), asked=replace(asked, busy=frozenset({"a/b/busy"})))
    assert names(planned.candidates) == order


def test_a_request_that_has_one_session_repeats_its_step() -> None:
    links = history(1)
    repeated = entry("s", links, 2, EntryState.PASSED)
    assert names(plan(links, repeated, repeats=(repeated,)).candidates) == ["s"]
    running = replace(ASKED, busy=frozenset({"a/b/s"}))
    assert names(plan(links, entry("s", links, 2), asked=running).candidates) == ["s"]


@pytest.mark.parametrize(
    ("asked", "repeats", "joined"),
    [
        (ASKED, 1, []),
        (replace(ASKED, is_retry=True), 1, ["s0"]),
        (replace(ASKED, is_retry=True), 2, []),
        (replace(ASKED, is_named=True), 1, ["s0"]),
        (replace(ASKED, is_named=True), 2, ["s0"]),
    ],
)
def test_an_opening_joins_an_equal_one_only_if_it_is_the_same_clients(
    asked: Asked, repeats: int, joined: list[str]
) -> None:
    opened = tuple(IndexEntry(f"a/b/s{number}", Head(), 0, b"", b"") for number in range(repeats))
    assert names(plan(history(0), repeats=opened, asked=asked).candidates) == joined
