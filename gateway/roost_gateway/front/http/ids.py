"""Names of answers and of their parts, which name the session and the step, so that nothing need be stored. Pure."""

import base64
from dataclasses import dataclass

from roost.contract.names import pool_of
from roost.contract.steps import StepName
from roost_gateway.recognition.conversation import Recognised

CHAT, COMPLETION, RESPONSE, MESSAGE = "chatcmpl", "cmpl", "resp", "msg"
REASONING, TEXT, CALL = "rs", "msg", "fc"
"""Prefixes of ids: of answers, and of the parts of one."""
OPAQUE = "cm9vc3Q"
"""Signature or encrypted form of all reasoning. Clients send it back with the reasoning, which is dropped: the log has
it."""
_SEPARATOR = "\n"


@dataclass(frozen=True, slots=True)
class AnswerName:
    """A committed step, and the number of one of its parts, among the parts with the same prefix."""

    session_id: str
    step_id: str
    part: int | None = None
    """None for the whole answer."""

    @property
    def step(self) -> StepName:
        return StepName(self.session_id, self.step_id)

    def id(self, prefix: str) -> str:
        """The name as an id of an API, which clients send back unchanged."""
        part = () if self.part is None else (str(self.part),)
        text = _SEPARATOR.join((self.session_id, self.step_id, *part))
        return f"{prefix}_{base64.urlsafe_b64encode(text.encode()).decode().rstrip('=')}"


def answer_of(recognised: Recognised) -> AnswerName:
    """The name of the answer that a recognised conversation gets."""
    return AnswerName(recognised.session_id, recognised.step_id)


def name_of(text: str) -> AnswerName | None:
    """The name in an id, whatever its prefix; None when we did not make it. Whether there is such a step, and whose it
    is, only the session's log says."""
    _, _, encoded = text.partition("_")
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        return None
    session_id, *rest = decoded.split(_SEPARATOR)
    if pool_of(session_id) is None or not 1 <= len(rest) <= 2 or not rest[0]:
        return None
    if len(rest) == 1:
        return AnswerName(session_id, rest[0])
    part = rest[1]
    return AnswerName(session_id, rest[0], int(part)) if part.isascii() and part.isdigit() and len(part) < 6 else None
