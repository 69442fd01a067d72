"""Tables of parameters: they are complete, and the document shows them."""

import json
import re
from typing import Any

import pytest

from roost.contract.refused import MAX_VIOLATIONS, Refused, check
from roost_gateway.front.http.chat_body import CHAT, ChatBody
from roost_gateway.front.http.completions import COMPLETIONS, PromptBody
from roost_gateway.front.http.parameter_docs import DOCUMENT, TABLES, generated
from roost_gateway.front.http.parameters import MAX_MESSAGES, Body, ParameterTable, Use, read
from roost_gateway.front.http.responses_body import RESPONSES, ResponsesBody

USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(("table", "body"), [(CHAT, ChatBody), (COMPLETIONS, PromptBody)])
def test_a_table_has_all_that_is_read(table: ParameterTable, body: type[Body]) -> None:
    assert set(table.named(Use.SUPPORTED)) == set(body.model_fields)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.path)
def test_a_parameter_has_one_row_and_a_refused_one_its_fix(table: ParameterTable) -> None:
    names = [row.name for row in table.rows]
    assert len(names) == len(set(names))
    assert all(row.note for row in table.named(Use.REFUSED).values())


def test_the_document_is_up_to_date() -> None:
    """`make generate` writes it."""
    text = DOCUMENT.read_text()
    assert text == generated(text)
    assert all(f"### `{table.path}`" in text for table in TABLES)


def effects(**body: Any) -> dict[str, str]:
    return read(ChatBody, CHAT, json.dumps({"messages": [USER], **body}).encode())[1]


def test_parameters_without_effect_are_named() -> None:
    assert effects(store=False, reasoning_effort="low", house_style=[1], temperature=0) == {
        "x-roost-ignored": "store,reasoning_effort,house_style"
    }
    assert effects(user=None) == {}


def test_a_refused_parameter_may_ask_for_nothing() -> None:
    assert effects(n=1, logprobs=False, top_logprobs=0, modalities=["text"], audio=None) == {}
    with pytest.raises(Refused) as error:
        effects(n=2, audio={"voice": "x"})
    assert [field for field, _ in error.value.violations] == ["n", "audio"]


def test_a_header_holds_no_name_that_would_break_it() -> None:
    assert effects(**{"a,b": 1, "line\nbreak": 1, "é": 1, "fine": 1, "x" * 600: 1})["x-roost-ignored"] == (
        "fine," + "x" * 495
    )


@pytest.mark.parametrize("message", [{"role": "x", "content": 1}, {"role": "x", "content": "y"}])
def test_a_body_that_is_wrong_in_thousands_of_places_gets_a_short_error(message: Any) -> None:
    with pytest.raises(Refused) as error:
        effects(messages=[message] * MAX_MESSAGES)
    assert len(error.value.message) < 1500
    assert len(error.value.violations) == MAX_VIOLATIONS
    assert re.search(r"; and (9990|19990) more$", error.value.message)


def test_an_error_quotes_little_of_the_body() -> None:
    with pytest.raises(Refused) as error:
        read(ResponsesBody, RESPONSES, json.dumps({"input": [{"type": "x" * 100_000}]}).encode())
    assert len(error.value.message) < 500


def test_a_step_that_is_wrong_in_thousands_of_places_gets_a_short_error() -> None:
    with pytest.raises(Refused, match=r"; and 4990 more$") as error:
        check((f"messages[{number}]", "must have a name") for number in range(5000))
    assert error.value.message.startswith("invalid request: messages[0]: must have a name; messages[1]: ")
    assert len(error.value.violations) == MAX_VIOLATIONS
