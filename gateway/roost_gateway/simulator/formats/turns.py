"""From requests with their whole prompts, as traces have them, to a session's turns. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from roost_gateway.simulator.workload import Session, Turn


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace."""

    time: float
    """Seconds since the trace or the session began."""
    prompt_tokens: int
    output_tokens: int
    reused_tokens: int
    """Leading tokens that the prompt has in common with the previous prompt, as far as the trace's blocks tell."""
    seconds: float | None
    """What the recorded service took."""
    gap_seconds: float | None
    """Since the end of the previous request."""
    calls_tool: bool


def session_of(
    name: str, requests: Sequence[Request], block_tokens: int, prefix_tokens: int = 0, prefix: str = ""
) -> Session:
    """Return the session of some requests, which are in order of time; the prefix is named for its size by default.

    A prompt that begins with all full blocks of the previous prompt, or all but one, is taken to go on after the
    previous output, if it is long enough: traces tell blocks of prompts only.
    """
    prefix_tokens = min(prefix_tokens, requests[0].prompt_tokens - 1)
    prefix = prefix or f"prefix of {prefix_tokens} tokens"
    turns = tuple(_turns(requests, block_tokens, prefix_tokens))
    return Session(name, turns, prefix if prefix_tokens else "", prefix_tokens, requests[0].time)


def _turns(requests: Sequence[Request], block_tokens: int, prefix_tokens: int) -> Iterator[Turn]:
    before: Request | None = None
    for request in requests:
        kept = prefix_tokens if before is None else _kept(before, request, block_tokens)
        kept = min(kept, request.prompt_tokens - 1)
        yield Turn(
            kept,
            request.prompt_tokens - kept,
            max(1, request.output_tokens),
            0.0 if before is None else _gap(before, request),
            request.calls_tool,
            request.seconds,
        )
        before = request


def _kept(before: Request, request: Request, block_tokens: int) -> int:
    whole = before.prompt_tokens + before.output_tokens
    goes_on = request.reused_tokens > before.prompt_tokens - 2 * block_tokens and request.prompt_tokens > whole
    return whole if goes_on else request.reused_tokens


def _gap(before: Request, request: Request) -> float:
    if request.gap_seconds is not None:
        return max(0.0, request.gap_seconds)
    return max(0.0, request.time - before.time - (before.seconds or 0.0))
