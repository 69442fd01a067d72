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
    heads = _at_head(answers.get(known[0][0].point.own, ())) if known else []
    idle = [entry for entry in heads if entry.session_id not in asked.busy]
    running = [entry for entry in heads if entry.session_id in asked.busy]
    repeated = _repeated(repeats, asked, has_session=bool(known))
    tried = [*repeated, *idle, *running] if asked.is_retry else [*idle, *repeated, *running]
    forks = [
        replace(entry, own=boundary.point.own, wide=boundary.point.wide)
        for boundary, entries in known
        for entry in entries[:2]  # a second one, in case that the first is gone
    ]
    return Plan(
        _distinct(tried), _distinct(forks), "" if heads else _reason(chain, known[0][0] if known else None, answers)
    )


def _at_head(entries: Sequence[IndexEntry]) -> list[IndexEntry]:
    return [entry for entry in entries if entry.state is EntryState.HEAD]


def _repeated(repeats: Sequence[IndexEntry], asked: Asked, *, has_session: bool) -> list[IndexEntry]:
    """The session in which the same request began, if it may be the same client's. Openings of independent
    conversations are equal: an opening joins another only if its client says that it is a retry, and only if there is
    no doubt which opening it repeats."""
    if has_session or asked.is_named:
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
