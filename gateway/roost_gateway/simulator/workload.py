"""What is simulated: sessions and their turns, in sizes and seconds; no text. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Turn:
    """One step of a session. Its prompt is `kept_tokens` of the session's context so far, and `new_tokens` after them.

    A session's context so far is everything up to the end of the previous output; before the first turn it is the
    shared prefix.
    """

    kept_tokens: int
    """Less than the context so far after a compaction or an edit. A larger value means all of the context."""
    new_tokens: int
    output_tokens: int
    gap_seconds: float = 0.0
    """From the end of the previous step to this one: the time of a tool or of a human."""
    calls_tool: bool = False
    """Whether the step ends with a tool call. The client then holds the session while the tool runs."""
    recorded_seconds: float | None = None
    """How long the recorded service took for the step."""

    def __post_init__(self) -> None:
        if self.kept_tokens < 0 or self.new_tokens < 1 or self.output_tokens < 1 or self.gap_seconds < 0:
            raise ValueError(f"a turn needs a new and an output token, and nothing negative: {self}")


@dataclass(frozen=True, slots=True)
class Session:
    """A session to simulate. Iterating over `turns` again starts from the first turn again."""

    name: str
    turns: Iterable[Turn]
    prefix: str = ""
    """Names the text that the session's context begins with; sessions with the same prefix share its KV."""
    prefix_tokens: int = 0
    """How much of that text the session begins with. Another session may begin with more of it."""
    start_seconds: float = 0.0
    """When the session began, in seconds since its trace began."""
    tenant: str = ""

    def renamed(self, name: str) -> "Session":
        """Return a session with the same turns that shares nothing with this one but the prefix."""
        return replace(self, name=name)


ALL_TOKENS = 2**62
"""`Turn.kept_tokens` of a turn that only appends."""


def longest_context(session: Session) -> int:
    """Return the most tokens of prompt and output that any turn of the session has."""
    context, longest = session.prefix_tokens, 0
    for turn in session.turns:
        context = min(turn.kept_tokens, context) + turn.new_tokens + turn.output_tokens
        longest = max(longest, context)
    return longest


def with_capped_gaps(session: Session, seconds: float) -> Session:
    """Return the session with no gap longer than `seconds`."""
    turns = tuple(replace(turn, gap_seconds=min(turn.gap_seconds, seconds)) for turn in session.turns)
    return replace(session, turns=turns)
