"""How a step's output is read at its end: as text, thinking and calls, each where it was allowed."""

import threading
from dataclasses import replace

import pytest

from roost.v1 import session_service_pb2 as api
from roost_worker.render.formats.call_ids import MISTRAL
from roost_worker.server import generate
from roost_worker.server.output import read_message
from worker_harness import Ledger, Stream, World

GREP = api.Tool(name="grep", description="Search.", parameters_json='{"type": "object"}')
CALL = '<tool_call>\n{"name": "grep", "arguments": {"word": "roost"}}\n</tool_call>'


async def begin_with_tool(world: World, text: str, **fields) -> Stream:
    """A session's second step, since its tools, shown in the first one, would not fit the model's context."""
    ledger = Ledger()
    world.script(1, "ok")
    await world.step(ledger)
    world.script(1, text)
    return await world.begin(ledger, tools=[GREP], **fields)


async def test_tool_calls_are_recognised(world: World):
    stream = await begin_with_tool(world, f"Let me look. {CALL}")
    await stream.until("finished")
    assert stream.finished.finish_reason == api.FINISH_REASON_TOOL_CALLS
    assert stream.finished.content == "Let me look."
    assert [(c.name, c.arguments_json) for c in stream.finished.tool_calls] == [("grep", '{"word": "roost"}')]


@pytest.mark.parametrize("tools", [True, False])
async def test_thinking_is_reasoning_and_holds_no_calls(world: World, tools: bool):
    text = f"<think>\nMaybe {CALL}\n</think>\n\nHello."
    world.script(2, text)
    stream = await begin_with_tool(world, text) if tools else await world.begin(Ledger(), seed=2)
    await stream.until("finished")
    assert stream.out.text == stream.finished.text == text
    assert (stream.finished.content, stream.finished.reasoning) == ("Hello.", f"Maybe {CALL}")
    assert stream.finished.finish_reason == api.FINISH_REASON_STOP
    assert not stream.finished.tool_calls
    assert not stream.finished.warnings


@pytest.mark.parametrize("thinking", ["<think>\nMaybe café.\n</think>", "<think></think>", ""])
async def test_tokens_of_reasoning_are_those_up_to_the_end_of_thinking(world: World, thinking: str):
    """The scripted model writes a token for each byte."""
    world.script(1, f"{thinking}\n\nHello, Zoë.")
    stream = await world.begin(Ledger())
    await stream.until("finished")
    has_reasoning = "Maybe" in thinking
    assert stream.finished.reasoning_tokens == (len(thinking.encode()) if has_reasoning else 0)


async def test_a_constrained_value_is_content_even_if_it_holds_marks_of_thinking(world: World):
    world.script(1, text := '"<think>a</think>"')
    stream = await world.begin(Ledger(), format=api.Format(json_schema='{"type": "string"}'))
    await stream.until("finished")
    assert (stream.finished.content, stream.finished.reasoning) == (text, "")


@pytest.mark.parametrize(("tokens", "read_as"), [(True, ("", "Let m")), (False, ("<think>Let m", ""))])
async def test_thinking_that_is_cut_off_is_reasoning_of_a_model_with_tokens_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch, tokens: bool, read_as: tuple[str, str]
):
    monkeypatch.setattr(world.server.shell.renderer, "thinking_tokens", tokens)
    world.script(1, "<think>Let me see")
    stream = await world.begin(Ledger(), sampling={"max_tokens": 12})
    await stream.until("finished")
    assert (stream.finished.content, stream.finished.reasoning) == read_as
    assert stream.finished.reasoning_tokens == (12 if tokens else 0)
    assert stream.finished.finish_reason == api.FINISH_REASON_LENGTH


async def test_a_long_output_is_parsed_beside_the_event_loop(world: World, monkeypatch: pytest.MonkeyPatch):
    threads = list[str]()

    def read(*arguments):
        threads.append(threading.current_thread().name)
        return read_message(*arguments)

    monkeypatch.setattr(generate, "read_message", read)
    monkeypatch.setattr(generate, "INLINE_BYTES", 50)
    stream = await begin_with_tool(world, CALL)
    await stream.until("finished")
    assert len(stream.finished.tool_calls) == 1
    assert [name == threading.current_thread().name for name in threads] == [True, False]


@pytest.mark.parametrize("spelled", [True, False])
async def test_ids_of_calls_are_looked_for_in_a_long_log_beside_the_event_loop(
    world: World, monkeypatch: pytest.MonkeyPatch, spelled: bool
):
    threads = list[str]()

    def read(*arguments):
        threads.append(threading.current_thread().name)
        return read_message(*arguments)

    if spelled:
        renderer = world.server.shell.renderer
        monkeypatch.setattr(renderer, "format", replace(renderer.format, call_ids=MISTRAL))
    text = CALL.replace('"name"', '"id": "abc123xyz", "name"')
    monkeypatch.setattr(generate, "read_message", read)
    monkeypatch.setattr(generate, "INLINE_BYTES", len(text))
    stream = await begin_with_tool(world, text)
    await stream.until("finished")
    assert [call.id == "abc123xyz" for call in stream.finished.tool_calls] == [spelled]
    assert (threads[-1] == threading.current_thread().name) is not spelled


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        ("grep", "rm", "the session has no tool 'rm'"),
        ('"roost"', "NaN", "NaN is not a JSON value"),
        ("roost", "\\ud83d", "half of a surrogate pair"),
    ],
)
async def test_what_is_not_a_call_is_text_with_a_warning(world: World, old: str, new: str, warning: str):
    text = CALL.replace(old, new)
    stream = await begin_with_tool(world, text)
    await stream.until("finished")
    assert stream.finished.content == stream.finished.text == text
    assert stream.finished.finish_reason == api.FINISH_REASON_STOP
    assert warning in stream.finished.warnings[0]


@pytest.mark.parametrize(
    ("max_tokens", "finish"), [(len(CALL) - 13, api.FINISH_REASON_TOOL_CALLS), (20, api.FINISH_REASON_LENGTH)]
)
async def test_a_required_call_is_whole_when_the_limit_cuts_off_its_wrapper(world: World, max_tokens, finish):
    form = api.Format(tool_choice=api.ToolChoice(mode=api.TOOL_CHOICE_MODE_REQUIRED))
    stream = await begin_with_tool(world, CALL, format=form, sampling={"max_tokens": max_tokens})
    await stream.until("finished")
    assert stream.finished.finish_reason == finish
    assert len(stream.finished.tool_calls) == (finish == api.FINISH_REASON_TOOL_CALLS)


@pytest.mark.parametrize(
    "form",
    [
        api.Format(tool_choice=api.ToolChoice(mode=api.TOOL_CHOICE_MODE_NONE)),
        api.Format(json_schema='{"type": "string"}'),
    ],
)
async def test_text_like_a_tool_call_stays_text_when_no_call_is_wanted(world: World, form):
    stream = await begin_with_tool(world, CALL, format=form)
    await stream.until("finished")
    assert (stream.finished.content, len(stream.finished.tool_calls)) == (CALL, 0)


async def test_text_like_a_tool_call_stays_text_in_a_session_without_tools(world: World):
    world.script(1, CALL)
    stream = await world.begin(Ledger())
    await stream.until("finished")
    assert (stream.finished.content, len(stream.finished.tool_calls)) == (CALL, 0)
    assert stream.finished.finish_reason == api.FINISH_REASON_STOP
