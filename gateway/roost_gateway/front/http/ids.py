"""Names of answers and of their parts, which name the session and the step, so that nothing need be stored. Pure."""

import base64
from dataclasses import dataclass

from roost.contract.names import pool_of
from roost.contract.steps import StepName
from roost_gateway.recognition.conversation import Recognised

CHAT, COMPLETION, RESPONSE, MESSAGE = "chatcmpl", "cmpl", "resp", "msg"
REASONING, TEXT, CALL, OUTPUT = "rs", "msg", "fc", "fco"
"""Prefixes of ids: of answers, and of the parts of one."""
OPAQUE = "cm9vc3Q"
"""Signature or encrypted form of all reasoning. Clients send it back with the reasoning, which is dropped: the log has
it."""
_SEPARATOR = "\n"
_INPUT = "i"
"""Before the number of a part that a step was given."""
_MOST_DIGITS = 10


@dataclass(frozen=True, slots=True)
class AnswerName:
    """A committed step, and the number of one of its parts, among the parts with the same prefix."""

    session_id: str
    step_id: str
    part: int | None = None
    """None for the whole answer."""
    is_input: bool = False
    """Whether the part is one of what the step was given, whatever its prefix."""

    @property
    def step(self) -> StepName:
        return StepName(self.session_id, self.step_id)

    def id(self, prefix: str) -> str:
        """The name as an id of an API, which clients send back unchanged."""
        part = () if self.part is None else (f"{_INPUT * self.is_input}{self.part}",)
        return _id(prefix, self.session_id, self.step_id, *part)


def answer_of(recognised: Recognised) -> AnswerName:
    """The name of the answer that a recognised conversation gets."""
    return AnswerName(recognised.session_id, recognised.step_id)


def name_of(text: str) -> AnswerName | None:
    """The name in an id, whatever its prefix; None when we did not make it. Whether there is such a step, and whose it
    is, only the session's log says."""
    session_id, *rest = _fields(text)
    if pool_of(session_id) is None or not 1 <= len(rest) <= 2 or not rest[0]:
        return None
    if len(rest) == 1:
        return AnswerName(session_id, rest[0])
    number = _number(rest[1].removeprefix(_INPUT))
    return None if number is None else AnswerName(session_id, rest[0], number, rest[1].startswith(_INPUT))


def waiting_id(prefix: str, conversation_id: str, number: int) -> str:
    """The id of an item that waits in a conversation."""
    return _id(prefix, conversation_id, str(number))


def waiting_number(text: str, conversation_id: str) -> int | None:
    """The number of an item that waits, or has waited, in this conversation; None when the id is of another kind."""
    match _fields(text):
        case [name, number] if name == conversation_id:
            return _number(number)
    return None


def _id(prefix: str, *fields: str) -> str:
    return f"{prefix}_{base64.urlsafe_b64encode(_SEPARATOR.join(fields).encode()).decode().rstrip('=')}"


def _fields(text: str) -> list[str]:
    """The fields of an id; a single empty field when it is not one of ours."""
    _, _, encoded = text.partition("_")
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        return [""]
    return decoded.split(_SEPARATOR)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS else None
