"""Fits the generator to a file of sessions.

    python -m roost_gateway.simulator.fit FORMAT PATH > gateway/roost_gateway/simulator/fitted.json

It sees the tuning half of the file only (`halves`): what is tuned on it is judged by the other half.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from roost_gateway.simulator.formats.load import load
from roost_gateway.simulator.generator import RANKS, After, Parameters, Quantiles
from roost_gateway.simulator.workload import Session, Turn, longest_context

PREFIXES = 8


def halves(sessions: Iterable[Session]) -> tuple[list[Session], list[Session]]:
    """Return the tuning half and the held-out half. A hash of its name decides where a session is, whatever else the
    file holds; subagents are with their parents."""
    parts: tuple[list[Session], list[Session]] = ([], [])
    for session in sessions:
        root = session.name.partition("/")[0]
        parts[hashlib.blake2b(root.encode(), digest_size=1).digest()[0] % 2].append(session)
    return parts


@dataclass(slots=True)
class _Kind:
    """Turns that follow a tool call, or an answer."""

    calls_tool: list[bool] = field(default_factory=list)
    new_tokens: list[float] = field(default_factory=list)
    gap_seconds: list[float] = field(default_factory=list)

    def fitted(self) -> After:
        return After(_share(self.calls_tool), _quantiles(self.new_tokens), _quantiles(self.gap_seconds))


@dataclass(slots=True)
class _Sample:
    """What is read from sessions."""

    first: list[Turn] = field(default_factory=list)
    after_tool: _Kind = field(default_factory=_Kind)
    after_answer: _Kind = field(default_factory=_Kind)
    outputs: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    turns: list[float] = field(default_factory=list)
    contexts: list[float] = field(default_factory=list)
    compacted: list[float] = field(default_factory=list)

    def add(self, session: Session) -> None:
        before: Turn | None = None
        context = session.prefix_tokens
        turns = list(session.turns)
        for turn in turns:
            self.outputs[turn.calls_tool].append(turn.output_tokens)
            if before is None:
                self.first.append(turn)
            else:
                self._add_later(turn, self.after_tool if before.calls_tool else self.after_answer, context)
            context = min(turn.kept_tokens, context) + turn.new_tokens + turn.output_tokens
            before = turn
        self.turns.append(len(turns))
        self.contexts.append(longest_context(session))

    def _add_later(self, turn: Turn, kind: _Kind, context: int) -> None:
        kind.calls_tool.append(turn.calls_tool)
        kind.gap_seconds.append(turn.gap_seconds)
        if turn.kept_tokens < context / 2:
            self.compacted.append(turn.new_tokens)
        else:
            kind.new_tokens.append(turn.new_tokens)


def fit(sessions: Sequence[Session]) -> Parameters:
    """Return the parameters of sessions with a prefix; subagents have none.

    A turn that keeps less than half of its session's context is a compaction. Smaller edits count as new tokens.
    """
    sample, whole = _Sample(), [session for session in sessions if session.prefix_tokens]
    for session in whole:
        sample.add(session)
    prefixes = sorted(session.prefix_tokens for session in whole)
    later = len(sample.after_tool.calls_tool) + len(sample.after_answer.calls_tool)
    return Parameters(
        turns=_quantiles(sample.turns),
        prefix_tokens=tuple(prefixes[len(prefixes) * (2 * part + 1) // (2 * PREFIXES)] for part in range(PREFIXES)),
        first_tokens=_quantiles([turn.new_tokens for turn in sample.first]),
        first_calls_tool=_share([turn.calls_tool for turn in sample.first]),
        after_tool=sample.after_tool.fitted(),
        after_answer=sample.after_answer.fitted(),
        tool_call_tokens=_quantiles(sample.outputs[True]),
        answer_tokens=_quantiles(sample.outputs[False]),
        compaction=round(len(sample.compacted) / later, 5),
        compacted_tokens=_quantiles(sample.compacted),
        longest_context=round(_quantiles(sample.contexts)[RANKS.index(0.99)]),
    )


def _quantiles(values: Sequence[float]) -> Quantiles:
    ordered = sorted(values)
    return tuple(round(_between(ordered, rank * (len(ordered) - 1)), 3) for rank in RANKS)


def _between(ordered: Sequence[float], place: float) -> float:
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / len(values), 5)


def main() -> None:
    """Print the parameters as JSON."""
    name, path = sys.argv[1:]
    tuning, _ = halves(load(name, Path(path)))
    print(json.dumps(asdict(fit(tuning)), indent=1))


if __name__ == "__main__":
    main()
