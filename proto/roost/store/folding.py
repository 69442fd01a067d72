"""A folded log: a summary in place of its first steps (docs/contracts.md, "A folded log"). Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from roost.contract.events import FinishReason
from roost.contract.messages import Message, MessageRole, Sampling, ToolChoice, ToolChoiceMode
from roost.contract.refused import invalid
from roost.contract.sessions import FoldRequest
from roost.contract.steps import Deltas, StepRequest
from roost.store.records import LogEntry
from roost.store.values import finish_reason_to_record, message_to_record

SUMMARY_PROMPT = (
    "Summarise this conversation, so that it can go on from your summary alone: the task, what was done and found out, "
    "decisions and their reasons, open questions, and what is to be done next. Answer with the summary only."
)
"""What the model is asked when the client brings no summary."""


SUMMARY_STEP = "summary"
"""Step id of that step, in a fork of the session."""


def fold_step(request: FoldRequest) -> StepRequest:
    """The step of a session that a checked request stands for, and that the log begins with once it is folded."""
    key = hashlib.blake2b(request.request_id.encode(), digest_size=16).hexdigest()
    return StepRequest(
        session_id=request.session_id,
        step_id=f"fold-{key}",
        messages=(Message(MessageRole.USER, request.summary or SUMMARY_PROMPT),),
        sampling=Sampling(max_tokens=1),
        expected_head=request.expected_head,
    )


def summary_step(session_id: str) -> StepRequest:
    """The step in which the model of a fork writes the summary."""
    question = Message(MessageRole.USER, SUMMARY_PROMPT)
    no_calls = ToolChoice(ToolChoiceMode.NONE)
    return StepRequest(session_id, SUMMARY_STEP, (question,), format=no_calls, deltas=Deltas.NONE)


def steps_to_fold(entries: Sequence[LogEntry], keep_turns: int, *, keeps_fewer: bool = False) -> int:
    """How many of a log's first steps are folded. With `keeps_fewer`, fewer turns are kept where else no step would be
    folded. Raises Refused: INVALID_REQUEST when there are none."""
    turns = [index for index, entry in enumerate(entries) if entry.messages[0]["role"] == MessageRole.USER]
    if keeps_fewer:
        keep_turns = min(keep_turns, sum(index > 0 for index in turns))
    if not keep_turns:
        folded = len(entries)
    else:
        folded = turns[-keep_turns] if keep_turns <= len(turns) else 0
    if not folded:
        raise invalid([("keep_turns", f"the log has {len(turns)} turns; keep fewer of them, so that some are folded")])
    return folded


def folded_log(entries: Sequence[LogEntry], folded: int, summary: str, step_id: str) -> tuple[LogEntry, ...]:
    """The log with its first `folded` steps as one, `step_id`: their messages up to the first user's, verbatim,
    answered by the summary."""
    first = replace(
        entries[0],
        step_id=step_id,
        messages=_pinned(entries[0]),
        output={**message_to_record(Message(MessageRole.ASSISTANT, summary)), "tool_calls": [], "text": summary},
        finish_reason=finish_reason_to_record(FinishReason.STOP),
        format=None,
        commit_ms=entries[folded - 1].commit_ms,
    )
    return (first, *entries[folded:])


def _pinned(entry: LogEntry) -> tuple[dict[str, Any], ...]:
    """The messages of a log's first step up to its first user's message; all of them when it has none."""
    users = (place for place, message in enumerate(entry.messages) if message["role"] == MessageRole.USER)
    return entry.messages[: next(users, len(entry.messages) - 1) + 1]
