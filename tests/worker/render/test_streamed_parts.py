"""Parts of a turn come as soon as they are certain, and as late as that."""

# ruff: noqa: RUF001  DeepSeek's marks have fullwidth bars.

from dataclasses import replace

import pytest

from roost.contract.events import ArgumentsPart, CallPart, Part, ReasoningPart, TextPart
from roost.contract.parts import PartLog
from roost_worker.render.formats import Turn, format_named

TURN = Turn(frozenset({"grep", "w"}))
GREP = CallPart(0, "", "grep")


def text(content: str) -> TextPart:
    return TextPart(content)


def arguments(content: str, index: int = 0) -> ArgumentsPart:
    return ArgumentsPart(index, content)


def growth(name: str, turn: Turn, *pieces: str) -> list[list[Part]]:
    """What each piece of text completes, and then the end of the text."""
    parser, grown, size = format_named(name).parser(turn), list[list[Part]](), 0
    for piece in (*pieces, None):
        if piece is None:
            parser.finish()
        else:
            parser.feed(piece)
        log = PartLog(parser.parts)
        grown.append(list(log.after(size)))
        size = log.size
    return grown


def test_arguments_come_as_they_are_written() -> None:
    pieces = (
        "Hm. <tool",
        '_call>\n{"name": "grep", "arg',
        'uments": {"q"',
        ': {"a": "\\u00',
        'e9"}}',
        "}\n</tool_call>",
    )
    assert growth("chatml", TURN, *pieces) == [
        [text("Hm.")],
        [],
        [GREP, arguments('{"q"')],
        [arguments(': {"a": "')],
        [arguments('\\u00e9"}}')],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("name", "before", "call_id"),
    [
        ("mistral-v11", "[TOOL_CALLS]grep[CALL_ID]abc123xyz[ARGS]", "abc123xyz"),
        ("mistral-v13", "[TOOL_CALLS]grep[ARGS]", ""),
        ("deepseek-r1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>grep\n```json\n", ""),
        ("smollm3", '<tool_call>{"name":"grep","arguments":', ""),
    ],
)
def test_a_call_begins_when_its_name_is_complete(name: str, before: str, call_id: str) -> None:
    grown = growth(name, TURN, before, '{"q":', " 1}")
    assert grown[:3] == [[], [CallPart(0, call_id, "grep"), arguments('{"q":')], [arguments(" 1}")]]


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("chatml", '<tool_call>{"arguments": {"q": 1}, "name": "grep"}</tool_call>'),
        ("chatml", '<tool_call>{"name": "grep", "parameters": {"q": 1}}</tool_call>'),
        ("smollm2", '<tool_call>[{"name": "grep", "arguments": {"q": 1}}]</tool_call>'),
    ],
)
def test_a_call_written_in_another_way_comes_when_it_is_complete(name: str, whole: str) -> None:
    assert growth(name, TURN, whole[:-1], whole[-1]) == [[], [GREP, arguments('{"q": 1}')], []]


@pytest.mark.parametrize(
    ("name", "before", "call"),
    [
        ("llama3.1", "", '{"name": "grep", "parameters": {"q": 1}}'),
        ("mistral-v3", "Hm.", ' [TOOL_CALLS] [{"name": "grep", "arguments": {"q": 1}}]'),
    ],
)
def test_calls_that_other_text_would_make_text_come_at_the_end(name: str, before: str, call: str) -> None:
    sent = [text(before)] if before else []
    assert growth(name, TURN, before, call) == [sent, [], [GREP, arguments('{"q": 1}')]]
    assert growth(name, TURN, before, call, " see?") == [sent, [], [text(f"{call} see?")], []]


def test_what_is_not_a_call_beside_calls_is_text_on_a_line_of_its_own() -> None:
    unknown = '{"name": "rm", "arguments": {}}'
    whole = f'Hm. [TOOL_CALLS] [{unknown}, {{"name": "w", "arguments": {{}}}}]'
    assert growth("mistral-v3", TURN, whole)[1] == [text(f"\n{unknown}"), CallPart(0, "", "w"), arguments("{}")]


def test_a_text_that_begins_no_call_comes_at_once() -> None:
    assert growth("llama3.1", TURN, "Hi", " you") == [[text("Hi")], [text(" you")], []]
    assert growth("mistral-v3", TURN, "Hi", " you") == [[text("Hi")], [text(" you")], []]


def test_what_looks_like_a_call_and_is_not_comes_as_text() -> None:
    unknown = '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'
    assert growth("chatml", TURN, unknown[:-3], unknown[-3:]) == [[], [text(unknown)], []]
    assert growth("chatml", TURN, "a <b", "> <tool_", "cat>") == [
        [text("a <b")],
        [text(">")],
        [text(" <tool_cat>")],
        [],
    ]


def test_a_call_that_breaks_off_comes_as_text_after_what_came_of_it() -> None:
    cut = '<tool_call>{"name": "grep", "arguments": {"q'
    assert growth("chatml", TURN, "a ", cut) == [[text("a")], [GREP, arguments('{"q')], [text(f" {cut}")]]
    grown = growth("chatml", TURN, cut, '": NaN}}', '<tool_call>{"name": "w"}</tool_call>')
    assert grown[1:3] == [
        [arguments('": NaN'), text(f'{cut}": NaN}}}}')],
        [CallPart(1, "", "w"), arguments("{}", 1)],
    ]


def test_thinking_comes_at_once_where_its_end_does_not_decide_about_it() -> None:
    for turn in (replace(TURN, thinking_tokens=True), Turn(frozenset(), thinking_tokens=True)):
        assert growth("qwen3", turn, "<think>\nI", " see\n", "</thi", "nk>\n\nHi\n") == [
            [ReasoningPart("I")],
            [ReasoningPart(" see")],
            [],
            [text("Hi")],
            [],
        ]
    opened = replace(TURN, in_thinking=True)
    assert growth("qwen3", opened, "I see", "</think>", " Hi") == [[ReasoningPart("I see")], [], [text("Hi")], []]
    assert growth("chatml", TURN, "<think>I", "</think>Hi") == [[], [ReasoningPart("I"), text("Hi")], []]
    assert growth("chatml", TURN, "<think>I", " see") == [[], [], [text("<think>I see")]]


def test_a_required_call_comes_as_it_is_written_unless_it_is_judged_when_complete() -> None:
    whole = '<tool_call>\n{"name": "grep", "arguments": {"q": 1}}\n</tool_call>'
    required = replace(TURN, constrained=True)
    pieces = (whole[:30], whole[30:46], whole[46:])
    sent = [[], [GREP, arguments('{"q"')], [arguments(": 1}")], []]
    assert growth("chatml", required, *pieces) == sent
    assert growth("chatml", replace(required, checked={"w"}), *pieces) == sent
    judged = growth("chatml", replace(required, checked={"grep"}), *pieces)
    assert judged == [[], [], [], [GREP, arguments('{"q": 1}')]]


def test_a_constrained_value_is_text_to_the_letter() -> None:
    turn = Turn(frozenset(), constrained=True)
    assert growth("qwen3", turn, ' {"a"', ": 1} ") == [[text(' {"a"')], [text(": 1}")], [text(" ")]]


def test_blanks_beside_calls_are_dropped_and_others_are_not() -> None:
    call = '<tool_call>{"name": "w"}</tool_call>'
    for whole, content in (
        (f"\n{call}\n\nHi\n", "Hi"),
        (f" Hi \n{call}\n", " Hi"),
        (f"Hi {call}\n you {call} ", "Hi \n you"),
        (" Hi ", " Hi "),
    ):
        assert format_named("chatml").parse(whole, TURN).content == content
