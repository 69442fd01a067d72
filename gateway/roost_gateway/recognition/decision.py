"""Where the step of a conversation may run, from what the index of conversations knows of it. Pure.

A gateway tries the candidates in turn: whether a session still ends where the index says is known when its step begins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from roost.store.conversation_index import MAX_KEYS, EntryState, IndexEntry
from roost_gateway.recognition.chain import Boundary, Chain

MAX_CANDIDATES = 4
"""Sessions whose step is tried to begin; each is a round trip."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to try, in this order: the sessions of `candidates`, a fork of one of `forks`, a new session."""

    candidates: tuple[IndexEntry, ...]
    """Sessions that may have the step already, or that it continues."""
    forks: tuple[IndexEntry, ...]
    """Points that the conversation extends, the longest log first."""
    reason: str
    """Why no session that has all of the history can be continued; empty when that may be possible, or there is no
    history."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the gateway knows of a request beside its history."""

    is_named: bool
    """Whether the client names its conversation, by a family or a previous response."""
    is_retry: bool
    busy: frozenset[str] = frozenset()
    """Sessions with a step for a client of this gateway."""


def looked_up(chain: Chain, request: bytes) -> list[bytes]:
    """The keys to look up: the request's own, then the boundaries', the longest history first."""
    own = [boundary.point.own for boundary in reversed(chain.boundaries)]
    wide = [boundary.point.wide for boundary in reversed(chain.boundaries)]
    if own == wide:
        return [request, *own[: MAX_KEYS - 1]]
    half = (MAX_KEYS - 1) // 2
    return [request, *own[:half], *wide[:half]]


def decide(
    chain: Chain, answers: Mapping[bytes, Sequence[IndexEntry]], repeats: Sequence[IndexEntry], asked: Asked
) -> Plan:
    """`answers` are the entries under the keys of boundaries; `repeats` are those under the request's own key: where
    the same request began before, within a short time."""
    known = [(boundary, entries) for boundary in reversed(chain.boundaries) if (entries := _known(boundary, answers))]
    own = answers.get(known[0][0].point.own, ()) if known else ()
    heads = [entry for entry in own if entry.state is EntryState.HEAD]
    idle = [entry for entry in heads if entry.session_id not in asked.busy]
    joined = _joined(own, repeats, asked) if known else _joined_opening(repeats, asked)
    forks = [
        replace(entry, own=boundary.point.own, wide=boundary.point.wide)
        for boundary, entries in known
        for entry in entries[:2]  # a second one, in case that the first is gone
    ]
    return Plan(
        candidates=_distinct([*joined, *idle] if asked.is_retry else [*idle, *joined]),
        forks=_distinct(forks),
        reason="" if heads else _reason(chain, known[0][0] if known else None, answers),
    )


def _joined(own: Sequence[IndexEntry], repeats: Sequence[IndexEntry], asked: Asked) -> list[IndexEntry]:
    """Sessions that may have this very step, after a history that `own` have: where the request began before, and
    those with a step that runs. Several sessions have one history when no calls tell their replies apart: there, an
    equal request is another client's unless it says that it is a retry."""
    if not asked.is_named and not asked.is_retry and len({entry.session_id for entry in own}) > 1:
        return []
    running = [entry for entry in own if entry.state is EntryState.HEAD and entry.session_id in asked.busy]
    return [*repeats[:1], *running]


def _joined_opening(repeats: Sequence[IndexEntry], asked: Asked) -> list[IndexEntry]:
    """The session of the same opening. Openings of independent conversations are equal: one joins another only if its
    client names both, or says that it is a retry and there is no doubt of which."""
    if asked.is_named:
        return list(repeats[:1])
    return list(repeats) if asked.is_retry and len(repeats) == 1 else []


def _known(boundary: Boundary, answers: Mapping[bytes, Sequence[IndexEntry]]) -> list[IndexEntry]:
    """Sessions that have all of the history up to there, those of the family first."""
    own, wide = boundary.point.own, boundary.point.wide
    return [*answers.get(own, ()), *(answers.get(wide, ()) if wide != own else ())]


def _distinct(entries: Sequence[IndexEntry]) -> tuple[IndexEntry, ...]:
    """The first entry of each session, `MAX_CANDIDATES` at most."""
    first = dict[str, IndexEntry]()
    for entry in entries:
        first.setdefault(entry.session_id, entry)
    return tuple(first.values())[:MAX_CANDIDATES]


def _reason(chain: Chain, known: Boundary | None, answers: Mapping[bytes, Sequence[IndexEntry]]) -> str:
    """Why the session that has the history up to `known` is not continued."""
    known_units = known.units if known is not None else 0
    unknown = [
        place for place, unit in enumerate(chain.units, chain.units_before + 1) if unit.is_turn and place > known_units
    ]
    if unknown:
        return f"no session has the history up to message {chain.messages_of(unknown[0])}"
    if known is None:
        return ""
    upto = chain.messages_of(known_units)
    if answers.get(known.point.own):
        return f"the session has gone on after message {upto}"
    return f"the history up to message {upto} is another conversation's"
