"""Headers: which name a client's conversation, which say that a request is a retry, and what a response tells. Pure."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from roost.contract.budgets import BudgetStatus
from roost.contract.refused import invalid
from roost.contract.repetition import Repetition
from roost.contract.why import Why
from roost_gateway.recognition.conversation import Recognised

MAX_FAMILY_BYTES = 256
SESSION_HEADERS: Mapping[str, str] = {
    "x-roost-session": "any client",
    "x-claude-code-session-id": "Claude Code; `x-claude-code-agent-id` separates its sub-agents",
    "thread-id": "Codex: sub-agents have their own, while `session-id` is the root's",
    "session-id": "Codex, pi (`session_id`)",
    "x-session-id": "OpenCode",
    "x-session-affinity": "OpenCode, aiperf",
    "x-litellm-session-id": "OpenHands, LiteLLM",
    "x-dynamo-session-id": "clients of Dynamo",
}
"""Headers that name a conversation, and who sends them; the first one that a request has counts. `_` is read as `-`."""

_AGENT_HEADER = "x-claude-code-agent-id"
_MAX_REASON_CHARS = 200
_MAX_WHY_CHARS = 500


def family_of(
    headers: Mapping[str, str],
    further: Sequence[str] = (),
    body_id: str | None = None,
    body_field: str = "prompt_cache_key",
) -> str:
    """Returns the id that the client's conversation goes by, or "".

    `further` are names of headers that are read first, `body_id` is the value of the body's field, which is read last.
    Sub-agents have families of their own. Raises Refused: INVALID_REQUEST when the id is too long.
    """
    values = {name.lower().replace("_", "-"): value.strip() for name, value in headers.items()}
    names = (*(name.lower().replace("_", "-") for name in further), *SESSION_HEADERS)
    name = next((name for name in names if values.get(name)), "")
    parts = [values[name] if name else body_id or "", values.get(_AGENT_HEADER, "")]
    family = "/".join(part for part in parts if part)
    if len(family.encode()) > MAX_FAMILY_BYTES:
        raise invalid([(name or body_field, f"must have at most {MAX_FAMILY_BYTES} bytes, with the agent")])
    return family


class Naming(TypedDict):
    """What a request's headers say of its conversation: fields of `Conversation`."""

    family: str
    is_retry: bool
    role: str
    epoch: str


def naming_of(
    headers: Mapping[str, str], further: Sequence[str], body_id: str | None, body_field: str = "prompt_cache_key"
) -> Naming:
    """Returns what the headers say, and the body where no header names the conversation, as for `family_of`.

    Raises Refused: INVALID_REQUEST when the id is too long.
    """
    return Naming(
        family=family_of(headers, further, body_id, body_field),
        is_retry=is_retry(headers),
        role=role_of(headers),
        epoch=epoch_of(headers),
    )


def epoch_of(headers: Mapping[str, str]) -> str:
    """The epoch of the client's conversations; "" without one. It names none of them."""
    return headers.get("x-roost-session-epoch", "")


def role_of(headers: Mapping[str, str]) -> str:
    """Role of the pool that the client asks for; "" for the pool's first."""
    return headers.get("x-roost-role", "")


def is_retry(headers: Mapping[str, str]) -> bool:
    """Whether the client says that it has sent the request before."""
    count = headers.get("x-stainless-retry-count", "")
    return count.isdecimal() and count.strip("0") != ""


def recognition_headers(recognised: Recognised) -> dict[str, str]:
    """What a response tells of its session."""
    headers = {"x-roost-session": recognised.session_id, "x-roost-match": recognised.match.value}
    if recognised.reason:
        headers["x-roost-reason"] = _printable(recognised.reason, _MAX_REASON_CHARS)
    return headers | budget_headers(recognised.budgets)


def repetition_headers(repetition: Repetition | None) -> dict[str, str]:
    """What the step's calls repeat."""
    return {} if repetition is None else {"x-roost-repetition": str(repetition)}


def budget_headers(budgets: Sequence[BudgetStatus]) -> dict[str, str]:
    """The budgets to warn of, each as `scope unit used/limit`."""
    return {"x-roost-budget": ", ".join(map(str, budgets))} if budgets else {}


def step_headers(cached_tokens: int, why: Why | None) -> dict[str, str]:
    """What a response tells of how its step went, or, before its end, of how it began."""
    headers = {"x-roost-cached-tokens": str(cached_tokens)}
    if why is not None:
        headers["x-roost-why"] = _printable(why.line, _MAX_WHY_CHARS)
    return headers


def _printable(text: str, most: int) -> str:
    """Text as a header may have it: printable ASCII, cut to `most` characters."""
    plain = text.encode("ascii", "backslashreplace").decode()[:most]
    return "".join(character if character.isprintable() else " " for character in plain)
