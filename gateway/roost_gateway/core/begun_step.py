"""A conversation's step after it has begun, and its form in the record of a detached step. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roost.contract.names import pool_of
from roost.contract.steps import StepName, StepRequest
from roost.store.conversation_index import IndexEntry, decode_entries, encode_entry
from roost.store.kept_codec import decode, encode
from roost_gateway.recognition.chain import Chain, Point
from roost_gateway.recognition.conversation import Conversation, Match, Recognised
from roost_gateway.recognition.turn import Turn


@dataclass(frozen=True, slots=True)
class BegunStep:
    """A step in its session, with what the index of conversations is to remember of it."""

    turn: Turn
    start: IndexEntry
    """The point of the session's log after which it has begun."""
    recognised: Recognised

    @property
    def request(self) -> StepRequest:
        return self.turn.step(self.start.session_id, self.start.head, self.start.units)

    def document(self) -> dict[str, Any]:
        """All but the request, as JSON."""
        recognised, links, kept = self.recognised, self.turn.chain, self.turn.conversation.kept
        return {
            "start": encode_entry(self.start).hex(),
            "root": _point_document(self.turn.root),
            "end": _point_document(links.end),
            "units": links.units_before + len(links.units),
            "match": recognised.match.value,
            "logTokens": recognised.log_tokens,
            "reason": recognised.reason,
            "kept": None if kept is None else [kept.conversation_id, kept.version, encode(kept)],
        }


def begun_step(request: StepRequest, tenant: str, document: Mapping[str, Any]) -> BegunStep:
    """Reads the step back from its request and `BegunStep.document`. Of the conversation it has only what the step
    adds."""
    pool = pool_of(request.session_id)
    assert pool is not None, "the store has checked the session's name"
    (start,) = decode_entries(pool, bytes.fromhex(document["start"]))
    kept = decode(*document["kept"]) if document.get("kept") else None
    added = Conversation(
        "",
        messages=request.messages,
        sampling=request.sampling,
        format=request.format,
        deltas=request.deltas,
        kept=kept,
    )
    links = Chain((), (), _point(document["end"]), document["units"])
    turn = Turn(added, tenant, _point(document["root"]), links, bytes.fromhex(request.step_id))
    return BegunStep(turn, start, recognised_step(StepName(request.session_id, request.step_id), document))


def recognised_step(name: StepName, document: Mapping[str, Any]) -> Recognised:
    """Reads back what a step was recognised as, from `BegunStep.document`."""
    match, reason = Match(document["match"]), document["reason"]
    return Recognised(name.session_id, name.step_id, match, document["logTokens"], reason)


def _point_document(point: Point) -> list[str]:
    return [point.own.hex(), point.wide.hex()]


def _point(document: list[str]) -> Point:
    own, wide = map(bytes.fromhex, document)
    return Point(own, wide)
