"""Refusals in each API's form."""

import pytest

from roost.contract.reasons import STATUSES, Reason
from roost.contract.refused import Refused, invalid
from roost_gateway.front.http.errors import Api, failure, http_failure


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("api", Api)
def test_every_reason_has_a_status_and_a_type(api: Api, reason: Reason) -> None:
    reported = failure(api, Refused(reason, "why"), "req_1")
    assert reported.status in (STATUSES[reason].http, 529)
    assert reported.body["error"]["type"].endswith(("_error", "_too_large"))
    assert "why" in reported.body["error"]["message"]


def test_an_invalid_field_is_named_to_clients_of_openai() -> None:
    reported = failure(Api.OPENAI, invalid([("sampling.top_p", "is too much")]), "req_1")
    assert reported.status == 400
    assert reported.body == {
        "error": {
            "message": "invalid request: top_p: is too much",
            "type": "invalid_request_error",
            "param": "top_p",
            "code": "invalid_request",
        }
    }


def test_overload_is_429_or_503_and_529_to_clients_of_anthropic() -> None:
    full, away = Refused(Reason.QUEUE_FULL, "full"), Refused(Reason.NO_WORKER, "none", retry_seconds=1.2)
    assert failure(Api.OPENAI, full, "r").status == 429
    assert failure(Api.OPENAI, away, "r").status == 503
    assert failure(Api.ANTHROPIC, full, "r").status == 429
    assert failure(Api.ANTHROPIC, away, "r").body["error"]["type"] == "overloaded_error"
    assert failure(Api.ANTHROPIC, away, "r").status == 529


@pytest.mark.parametrize(("seconds", "header"), [(None, None), (0.0, "1"), (0.2, "1"), (1.2, "2"), (30.0, "30")])
def test_retry_after_has_whole_seconds_rounded_up(seconds: float | None, header: str | None) -> None:
    refused = Refused(Reason.QUEUE_FULL, "full", retry_seconds=seconds)
    assert failure(Api.OPENAI, refused, "r").headers.get("retry-after") == header


def test_a_long_conversation_is_refused_in_the_words_that_make_clients_compact_it() -> None:
    refused = Refused(Reason.STEP_TOO_LONG, "3000 tokens; 2048 fit")
    openai, anthropic = (failure(api, refused, "req_1").body for api in Api)
    assert openai["error"]["code"] == "context_length_exceeded"
    assert "maximum context length" in openai["error"]["message"]
    assert anthropic["error"]["message"] == "prompt is too long: 3000 tokens; 2048 fit"


def test_system_text_and_tools_that_are_too_long_compact_nothing() -> None:
    """Clients compacted a history of one message again and again, and never said why."""
    metadata = {"prompt_tokens": "7812", "limit_tokens": "2048"}
    refused = Refused(Reason.STEP_TOO_LONG, "system text and tools have 7812 tokens", metadata=metadata)
    openai, anthropic = (failure(api, refused, "req_1").body for api in Api)
    assert openai["error"]["code"] == "step_too_long"
    assert openai["error"]["message"] == anthropic["error"]["message"] == "system text and tools have 7812 tokens"
    step = Refused(Reason.STEP_TOO_LONG, "the log", metadata={**metadata, "log_tokens": "9"})
    assert failure(Api.OPENAI, step, "r").body["error"]["code"] == "context_length_exceeded"


def test_anthropic_has_the_requests_id_in_the_body() -> None:
    assert http_failure(Api.ANTHROPIC, 404, "no such path", "req_1").body == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "no such path"},
        "request_id": "req_1",
    }
