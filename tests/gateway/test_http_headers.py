"""Which headers name a conversation, and what a response tells of it."""

import pytest

from roost.contract.refused import Refused
from roost.contract.why import KvEviction, RebuildCause, Why
from roost_gateway.front.http.headers import family_of, is_retry, recognition_headers, step_headers
from roost_gateway.recognition.conversation import Match, Recognised
from wire_requests import requests_of

CODEX = {"session-id": "root", "thread-id": "thread", "x-client-request-id": "thread"}
CLAUDE = {"x-claude-code-session-id": "uuid"}


@pytest.mark.parametrize(
    ("headers", "family"),
    [
        ({}, ""),
        (CLAUDE, "uuid"),
        ({**CLAUDE, "x-claude-code-agent-id": "a1"}, "uuid/a1"),
        (CODEX, "thread"),
        ({"session_id": "pi", "x-client-request-id": "pi"}, "pi"),
        ({"X-Session-Affinity": "same", "x-correlation-id": "other"}, "same"),
        ({"x-litellm-session-id": "hands"}, "hands"),
        ({"x-roost-session": "ours", "x-session-id": "theirs"}, "ours"),
        ({"x-session-id": " ", "x-session-affinity": "s"}, "s"),
        ({"x-session-id": "s", "x-roost-session-epoch": "run 2"}, "s"),
        ({"x-roost-session-epoch": "run 2"}, ""),
    ],
)
def test_the_name_of_a_conversation(headers: dict[str, str], family: str) -> None:
    assert family_of(headers) == family


def test_configured_headers_are_read_first_and_the_body_last() -> None:
    assert family_of({"x-session-id": "s", "X_Job": "j"}, ("x-job",), "key") == "j"
    assert family_of({"x-session-id": "s"}, ("x-job",), "key") == "s"
    assert family_of({}, ("x-job",), "key") == "key"


def test_a_name_has_256_bytes_with_the_agent() -> None:
    assert len(family_of({"x-session-id": "s" * 256})) == 256
    for headers in ({"x-session-id": "é" * 129}, {"x-session-id": "s" * 255, "x-claude-code-agent-id": "a"}):
        with pytest.raises(Refused) as error:
            family_of(headers)
        assert [field for field, _ in error.value.violations] == ["x-session-id"]


def test_subagents_of_opencode_have_their_own_session() -> None:
    families = [family_of(request.headers) for request in requests_of("opencode-subagent")]
    assert families[0] != families[1]
    assert families[0] == families[2]


@pytest.mark.parametrize(
    ("count", "retry"),
    [("0", False), ("2", True), ("", False), ("x", False), ("²", False), ("9" * 5000, True), ("00", False)],
)
def test_stainless_clients_count_their_retries(count: str, retry: bool) -> None:
    assert is_retry({"x-stainless-retry-count": count}) is retry


def test_a_response_tells_the_session_and_why_it_is_new() -> None:
    recognised = Recognised("team/p:1", "step", Match.IMPORTED, 0, "message 3 differs:\n“é”")
    assert recognition_headers(recognised) == {
        "x-roost-session": "team/p:1",
        "x-roost-match": "imported",
        "x-roost-reason": "message 3 differs: \\u201c\\xe9\\u201d",
    }


def test_a_response_tells_why_its_step_was_slow() -> None:
    eviction = KvEviction(64, 90.0, "team/p/1", "LRU")
    why = Why(log_tokens=80, rebuilt_tokens=64, cause=RebuildCause.EVICTED_FOR_ROOM, eviction=eviction)
    assert step_headers(16, why) == {
        "x-roost-cached-tokens": "16",
        "x-roost-why": "64 of 80 tokens rebuilt: evicted 90 s ago for session team/p/1's growth (LRU)",
    }
    assert step_headers(16, None) == {"x-roost-cached-tokens": "16"}
