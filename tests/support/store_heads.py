"""Heads of logs, as the store's model moves and judges them."""

from typing import TYPE_CHECKING

from roost.contract import loghash
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.store.refusals import refused

if TYPE_CHECKING:
    from store_model import Session


def check_head(session: "Session", expected: Head | None, generation: int = 0) -> None:
    """Heads are judged in their own log, and without one in the current log, unless they are the former log's last."""
    if expected is None or (expected == session.head and generation in (0, session.generation)):
        return
    former = session.older[-1][-1].head if session.older else None
    if expected == former and generation in (0, session.generation - 1):
        if len(session.older[-1]) == len(session.log):
            return
        raise refused(Reason.HEAD_MISMATCH)
    last = session.head
    if 0 < generation < session.generation:
        last = session.older[generation - 1][-1].head
        if generation < session.generation - 1 or expected.length < last.length:
            raise refused(Reason.HEAD_MISMATCH)
        raise refused(Reason.SESSION_ROLLED_BACK)
    longer = generation <= session.generation and last.length > expected.length
    raise refused(Reason.HEAD_MISMATCH if longer else Reason.SESSION_ROLLED_BACK)


def after(head: Head, prompt: tuple[int, ...], output: tuple[int, ...]) -> Head:
    packed = loghash.pack_ids([*prompt, *output])
    return Head(head.length + len(prompt) + len(output), loghash.extend(head.log_hash, packed))
