"""The canonical form: what clients change in a history without changing it, and what does count."""

from dataclasses import replace

import pytest

from roost.contract.messages import Message, MessageRole, ToolCall, ToolDefinition
from roost.contract.nonce_lines import NonceLine
from roost_gateway.recognition.canonical import cleaned, json_value, output_unit, units
from roost_gateway.recognition.chain import Point, chain, root
from roost_gateway.recognition.conversation import Conversation
from roost_gateway.recognition.flattened import calls_in

S, U, A, T = MessageRole.SYSTEM, MessageRole.USER, MessageRole.ASSISTANT, MessageRole.TOOL
CALL = ToolCall("call_1", "read", '{ "path" : "caf\\u00e9" }')
OTHER = ToolCall("call_2", "read", "{}")
RESULTS = (Message(T, "one", tool_call_id="call_1"), Message(T, "two", tool_call_id="call_2"))


def end(*messages: Message) -> bytes:
    """The hash of a history."""
    conversation = cleaned(Conversation("m", messages=messages))
    return chain(conversation.messages, root(conversation, "tenant", "pool")).end.own


def turn(text: str, *calls: ToolCall) -> Message:
    return Message(A, text, calls)


@pytest.mark.parametrize(
    ("client", "original", "echo"),
    [
        ("crewai and pi drop text beside a call", [turn("Looking.", CALL)], [turn("", CALL)]),
        ("claude-code and openhands drop text that is whitespace", [turn("\n\n", CALL)], [turn("", CALL)]),
        ("inspect-ai writes a newline before the text", [turn("Done.")], [turn("\nDone.")]),
        ("opencode leaves an empty message where an attempt failed", [turn("Done.")], [turn(""), turn("Done.")]),
        ("codex has items for text and call", [turn("Looking.", CALL)], [turn("Looking."), turn("", CALL)]),
        ("codex has an item for each call", [turn("", CALL, OTHER)], [turn("", CALL), turn("", OTHER)]),
        (
            "pydantic-ai turns reasoning into a message",
            [turn("Done.")],
            [turn("<think>\nSo.\n</think>"), turn("Done.")],
        ),
        (
            "qwen-code spells arguments compactly",
            [turn("", CALL)],
            [turn("", replace(CALL, arguments_json='{"path":"café"}'))],
        ),
        (
            "langgraph spells arguments with spaces",
            [turn("", CALL)],
            [turn("", replace(CALL, arguments_json='{"path": "café"}'))],
        ),
        (
            "clients write no arguments as an empty object",
            [turn("", OTHER)],
            [turn("", replace(OTHER, arguments_json=""))],
        ),
        (
            "smolagents writes calls as Python",
            [turn("Looking.", CALL)],
            [
                turn(
                    "Looking.\nCalling tools:\n[{'id': 'call_1', 'type': 'function', "
                    "'function': {'name': 'read', 'arguments': {'path': 'café'}}}]"
                )
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_echo_equals_the_turn(client: str, original: list[Message], echo: list[Message]) -> None:
    hello, thanks = Message(U, "hello"), Message(U, "thanks")
    assert end(hello, *original, thanks) == end(hello, *echo, thanks)


def test_claude_code_sends_results_in_the_order_in_which_tools_ended() -> None:
    calls = turn("", CALL, OTHER)
    assert end(calls, *RESULTS) == end(calls, *reversed(RESULTS))
    conversation = cleaned(Conversation("m", messages=(calls, *reversed(RESULTS))))
    assert conversation.messages == (calls, *RESULTS)


def test_results_without_their_calls_count_in_any_order() -> None:
    """As they follow a previous response. What has equal ids, or none, stays in its order."""
    assert end(*RESULTS) == end(*reversed(RESULTS))
    nameless = [replace(result, tool_call_id="") for result in RESULTS]
    assert end(*nameless) != end(*reversed(nameless))


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("1.50", "1.5"),  # pydantic-ai and langchain
        ("2E2", "200.0"),
        ("200", "200.0"),
        ("-0", "0"),
        ("12345678901234567890", "12345678901234567000"),  # any client in JavaScript
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}'),
        ('"\\u00e9\\/"', '"é/"'),
        ("", "{}"),
    ],
)
def test_arguments_are_compared_as_values(text: str, other: str) -> None:
    assert json_value(text) == json_value(other)


@pytest.mark.parametrize(("text", "other"), [("1", "2"), ('"1"', "1"), ("[1,2]", "[2,1]"), ("null", "{}"), ("{", "{{")])
def test_other_values_are_other_arguments(text: str, other: str) -> None:
    assert json_value(text) != json_value(other)


@pytest.mark.parametrize(
    "changed",
    [
        [Message(U, "hello "), turn("Hi.", CALL), *RESULTS],
        [Message(S, "hello"), turn("Hi.", CALL), *RESULTS],
        [Message(U, "hello"), turn("Hi.", replace(CALL, id="call_9")), *RESULTS],
        [Message(U, "hello"), turn("Hi.", replace(CALL, name="write")), *RESULTS],
        [Message(U, "hello"), turn("Hi.", replace(CALL, arguments_json="{}")), *RESULTS],
        [Message(U, "hello"), turn("Hi."), *RESULTS],
        [Message(U, "hello"), turn("Hi.", CALL), RESULTS[0]],
        [Message(U, "hello"), turn("Hi.", CALL), RESULTS[0], replace(RESULTS[1], content="three")],
        [Message(U, "hello"), turn("Hi.", CALL), Message(S, "new tools"), *RESULTS],
    ],
)
def test_what_the_model_reads_counts(changed: list[Message]) -> None:
    assert end(*changed) != end(Message(U, "hello"), turn("Hi.", CALL), *RESULTS)


def test_texts_cannot_be_moved_between_fields() -> None:
    assert end(Message(U, "ab"), Message(U, "c")) != end(Message(U, "a"), Message(U, "bc"))
    tools = [ToolDefinition("a", "b", "{}"), ToolDefinition("ab", "", "{}")]
    assert len({root(Conversation("m", tools=(tool,)), "t", "p") for tool in tools}) == 2


def test_histories_of_other_tenants_pools_tools_epochs_and_families_are_others() -> None:
    asked = Conversation("m", system="Be brief.")
    tool = ToolDefinition("read", "", "{}")
    others = [replace(asked, system="Be kind."), replace(asked, tools=(tool,)), replace(asked, role="critic")]
    others += [replace(asked, epoch="run 2"), replace(asked, epoch="run 3")]
    roots = [root(asked, "a", "p"), root(asked, "b", "p"), root(asked, "a", "q"), *(root(o, "a", "p") for o in others)]
    assert len({point.wide for point in roots}) == len(roots)
    named = root(replace(asked, family="f"), "a", "p")
    assert (named.wide == roots[0].wide, named.own == roots[0].own) == (True, False)


def test_an_output_becomes_the_unit_that_its_echo_is() -> None:
    output = turn("Looking.", CALL)
    assert output_unit(output) == units([turn("", CALL)])[0].digest
    assert output_unit(turn(" \n")) is None


def test_lines_that_differ_from_request_to_request_are_removed_from_system_texts_only() -> None:
    """Claude Code's billing line."""
    line = "x-anthropic-billing-header: cc_version=2.1.36; cch=0a1b2;"
    asked = Conversation("m", system=f"{line}\nYou are.", messages=(Message(S, f"a\n{line}\nb"), Message(U, line)))
    conversation = cleaned(asked)
    assert conversation.system == "You are."
    assert conversation.messages == (Message(S, "a\nb"), Message(U, line))


@pytest.mark.parametrize(
    ("line", "is_left_out"),
    [
        ("<now>12:03</now>", True),
        ("<now></now>", True),
        ("<now>12:03</now>\r", True),
        ("<now></now", False),
        ("----", True),
        ("---", False),
        ("<now>12:03</now>.", False),
        (" <now>12:03</now>", False),
        ("Id: <now></now>", False),
    ],
)
def test_a_pools_nonce_line_is_a_whole_line_with_a_beginning_and_an_end(line: str, is_left_out: bool) -> None:
    asked = Conversation("m", system=f"You are.\n{line}\nBe brief.")
    left = cleaned(asked, [NonceLine.parse(text) for text in ("Id: *.", "<now>*</now>", "--*--")]).system
    assert left == ("You are.\nBe brief." if is_left_out else asked.system)


def test_reasoning_in_the_assistants_text_is_not_rendered() -> None:
    """pydantic-ai sends it so, to servers of the Responses API that it does not know."""
    thought = turn("<think>\nSo.\n</think>\n<think>Or so.</think>Done.", CALL)
    conversation = cleaned(Conversation("m", messages=(turn("<think>So.</think>"), thought, Message(U, "<think>?"))))
    assert conversation.messages == (turn("Done.", CALL), Message(U, "<think>?"))


def test_text_that_only_looks_like_calls_stays_text() -> None:
    assert calls_in("Calling tools:\n[{'id': 1 + }]") == ()
    assert calls_in("Calling tools:\n[{'id': 'a'}]") == ()
    assert calls_in("Calling tools:\n[{'id': " + "x" * 100_000 + "}]") == ()
    assert calls_in("I was Calling tools:\n[{'id': 'a', 'function': {'name': 'b', 'arguments': 'c'}}]") == ()


def test_arguments_that_are_no_text_of_unicode_have_a_digest() -> None:
    assert output_unit(turn("", replace(CALL, arguments_json='{"a": "\\ud83d"}', name="\ud83d"))) is not None


def test_boundaries_lie_where_the_assistant_may_have_ended() -> None:
    messages = [Message(U, "a"), turn("b"), Message(U, "c"), turn("", CALL), RESULTS[0], Message(U, "d")]
    links = chain(messages, Point(b"r", b"r"))
    assert [boundary.units for boundary in links.boundaries] == [2, 4, 5]
    assert [links.messages_of(boundary.units) for boundary in links.boundaries] == [2, 4, 5]


def test_what_follows_a_previous_response_begins_at_a_boundary() -> None:
    whole = chain([Message(U, "a"), turn("b"), Message(U, "c")], Point(b"r", b"r"))
    rest = chain([Message(U, "c")], whole.boundaries[0].point, units_before=2)
    assert (rest.end, rest.boundaries) == (whole.end, whole.boundaries)
    assert (rest.messages_of(2), rest.messages_of(3)) == (0, 1)
    assert rest.after(turn("d")) == whole.after(turn("d"))
