"""One request of a conversation: its keys in the index, its step in a session, what the index is to remember. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from roost.contract.heads import Head
from roost.contract.messages import Message
from roost.contract.steps import StepName, StepRequest
from roost.store.conversation_index import EntryState, IndexEntry, IndexWrite
from roost_gateway.recognition.chain import Chain, Point, chain, root, tenant_digest
from roost_gateway.recognition.conversation import Conversation

REPEAT_MS = 120_000
"""How long after its end a step is returned to a client that asks for it again."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A cleaned conversation with its hashes."""

    conversation: Conversation
    tenant: str
    root: Point
    """Point before the first message of the whole history."""
    chain: Chain
    request: bytes
    """Key of requests that are equal to this one."""

    @property
    def step_id(self) -> str:
        """Equal requests are one step of their session."""
        return self.request.hex()

    def step(self, session_id: str, head: Head | None, units: int) -> StepRequest:
        """The step in a session whose log has the first `units` units of the conversation."""
        asked = self.conversation
        messages: Sequence[Message] = asked.messages[self.chain.messages_of(units) :]
        return StepRequest(
            session_id=session_id,
            step_id=self.step_id,
            messages=tuple(messages),
            sampling=asked.sampling,
            format=asked.format,
            expected_head=head,
            deltas=asked.deltas,
        )

    def opened(self, session_id: str) -> IndexEntry:
        """The entry of a new session, whose log is empty."""
        return IndexEntry(session_id, Head(), 0, self.root.own, self.root.wide)

    def began(self, start: IndexEntry, ttl_ms: int) -> list[IndexWrite]:
        """What to remember when the step begins in a session that the index does not lead to, for `ttl_ms`."""
        return [IndexWrite(self.request, start, ttl_ms)]

    def committed(self, start: IndexEntry, head: Head, output: Message, ttl_ms: int) -> list[IndexWrite]:
        """What to remember of the step that was committed after `start` with this output. `head` is the log's then;
        `ttl_ms` is how long the session lives."""
        after = self.chain.after(output)
        point = after.point
        entry = IndexEntry(start.session_id, head, after.units, point.own, point.wide)
        writes = [
            IndexWrite(point.own, entry, ttl_ms),
            IndexWrite(self.response_key(StepName(start.session_id, self.step_id)), entry, ttl_ms),
            IndexWrite(self.request, start, REPEAT_MS),
        ]
        if point.own != point.wide:
            writes.append(IndexWrite(point.wide, replace(entry, state=EntryState.OTHER_FAMILY), ttl_ms))
        return writes

    def passed(self, start: IndexEntry, ttl_ms: int) -> list[IndexWrite]:
        """What to remember of a point after which the session has gone on."""
        return [IndexWrite(start.own, replace(start, state=EntryState.PASSED), ttl_ms)] if start.units else []

    def response_key(self, previous: StepName) -> bytes:
        """Key of the end of a committed step, for requests with the same system text and tools."""
        return tenant_digest(self.tenant, "response", self.root.wide, previous.session_id, previous.step_id)

    def after(self, previous: IndexEntry) -> "Turn":
        """The same request, whose messages follow the end of a committed step."""
        start = Point(previous.own, previous.wide)
        return replace(self, chain=chain(self.conversation.messages, start, previous.units))


def turn(conversation: Conversation, tenant: str, pool: str) -> Turn:
    """The turn of a cleaned conversation; with `previous`, its chain is not known before `Turn.after`."""
    origin, previous = root(conversation, tenant, pool), conversation.previous
    start = origin
    if previous is not None:
        name = tenant_digest(tenant, "previous", origin.wide, previous.session_id, previous.step_id)
        start = Point(name, name)
    links = chain(conversation.messages, start)
    request = tenant_digest(tenant, "request", links.end.own, repr(conversation.sampling), repr(conversation.format))
    return Turn(conversation, tenant, origin, links, request)
