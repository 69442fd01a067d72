"""What the client sent and received, in its own record, which decides what was lost or doubled.

Each line of the file is one JSON object: a step that was sent, or one that came back committed.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self, TextIO

from roost import Committed, LoggedStep
from roost.contract.loghash import extend, pack_ids
from roost.contract.why import WaitReason, Why


@dataclass(frozen=True, slots=True)
class Receipt:
    """A committed step as the client received it: what was streamed, and what `Committed` said."""

    session: str
    step_id: str
    index: int
    streamed_ids: tuple[int, ...]
    """Ids of all deltas in order, without those before a `Restarted`."""
    streamed_text: str
    text: str
    """Text of the committed message, without tool calls."""
    head_length: int
    head_hash: str
    constrained: bool
    replayed: bool
    cached_tokens: int
    prompt_tokens: int
    reconstructed_tokens: int
    failovers_worker: int
    failovers_gateway: int
    ttft_ms: float
    queue_ms: int
    held: bool
    """Whether it waited because the working set was full."""

    @classmethod
    def of(
        cls,
        session: str,
        event: Committed,
        ids: tuple[int, ...],
        text: str,
        starts: int,
        *,
        constrained: bool = False,
        ttft_ms: float = 0.0,
    ) -> Self:
        """The receipt of `event`, before which `ids` and `text` were streamed. Each of `starts` after the first is a
        takeover: from a worker, which the gateway counts, or from a gateway."""
        return cls(
            session=session,
            step_id=event.step_id,
            index=event.index,
            streamed_ids=ids,
            streamed_text=text,
            text=event.output.content,
            head_length=event.head.length,
            head_hash=event.head.log_hash.hex(),
            constrained=constrained,
            replayed=event.replayed,
            cached_tokens=event.usage.cached_tokens,
            prompt_tokens=event.usage.prompt_tokens,
            reconstructed_tokens=event.usage.reconstructed_tokens,
            failovers_worker=event.failovers,
            failovers_gateway=max(0, starts - 1 - event.failovers),
            ttft_ms=ttft_ms,
            queue_ms=event.queue_ms,
            held=_was_held(event.why),
        )


def _was_held(why: Why | None) -> bool:
    return why is not None and why.wait is not None and why.wait.reason is WaitReason.WORKING_SET


@dataclass
class Journal:
    """Append-only record of steps; those that were sent and never answered stay visible."""

    path: Path
    sent: dict[str, set[str]] = field(default_factory=dict)
    receipts: dict[str, list[Receipt]] = field(default_factory=dict)
    _file: TextIO | None = None

    def __enter__(self) -> "Journal":
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def send(self, session: str, step_id: str) -> None:
        """Record that a step is about to be sent."""
        self.sent.setdefault(session, set()).add(step_id)
        self._write({"sent": step_id, "session": session})

    def receive(self, receipt: Receipt) -> None:
        """Record a committed step."""
        self.receipts.setdefault(receipt.session, []).append(receipt)
        self._write({"committed": receipt.step_id, **asdict(receipt)})

    def all_receipts(self) -> list[Receipt]:
        """Every committed step, by session, in order."""
        return [receipt for receipts in self.receipts.values() for receipt in receipts]

    def _write(self, line: Mapping[str, object]) -> None:
        assert self._file is not None
        self._file.write(json.dumps({"time": round(time.time(), 3), **line}) + "\n")
        self._file.flush()


@dataclass(frozen=True, slots=True)
class Findings:
    """Differences between the journal and the committed logs; all empty when nothing went wrong."""

    lost: tuple[str, ...] = ()
    """Steps that the client sent, committed or not, and that the log does not have."""
    doubled: tuple[str, ...] = ()
    """Steps that the log has more than once, or that the client never sent."""
    wrong: tuple[str, ...] = ()
    """Steps whose log differs from what the client received."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)


def compare(journal: Journal, logs: Mapping[str, Sequence[LoggedStep]]) -> Findings:
    """Compare the journal with the logs as read back at the end. Pure."""
    lost: list[str] = []
    doubled: list[str] = []
    wrong: list[str] = []
    for session, sent in journal.sent.items():
        log = logs.get(session, ())
        counts = Counter(step.step_id for step in log)
        lost.extend(f"{session}: {step_id}" for step_id in sorted(sent) if counts[step_id] == 0)
        doubled.extend(f"{session}: {step_id}" for step_id, n in counts.items() if n > 1 or step_id not in sent)
        wrong.extend(f"{session}: {fault}" for fault in _differences(journal.receipts.get(session, []), log))
    return Findings(tuple(lost), tuple(doubled), tuple(wrong))


def _differences(receipts: Iterable[Receipt], log: Sequence[LoggedStep]) -> list[str]:
    faults = _broken_links(log)
    by_id = {step.step_id: step for step in log}
    for receipt in receipts:
        step = by_id.get(receipt.step_id)
        if step is None:
            continue
        received = (receipt.index, receipt.streamed_ids, receipt.text, receipt.head_length, receipt.head_hash)
        logged = (step.index, step.output_token_ids, step.output.content, step.head.length, step.head.log_hash.hex())
        names = ("index", "token ids", "text", "length", "hash")
        faults += [
            f"{receipt.step_id}: {name} differs" for name, a, b in zip(names, received, logged, strict=True) if a != b
        ]
    return faults


def _broken_links(log: Sequence[LoggedStep]) -> list[str]:
    """Steps whose hash or length does not follow from the ids of the log up to them."""
    faults, log_hash, length = [], b"", 0
    for step in log:
        packed = pack_ids([*step.prompt_token_ids, *step.output_token_ids])
        log_hash, length = extend(log_hash, packed), length + len(packed) // 4
        if (log_hash, length) != (step.head.log_hash, step.head.length):
            faults.append(f"{step.step_id}: the log's hash does not follow from its ids")
            break
    return faults
