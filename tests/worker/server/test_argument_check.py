"""A required call that breaks what its grammar does not enforce is text with a warning, not a call."""

from contextlib import aclosing

import pytest

from roost.contract.events import ArgumentsPart, CallPart, TextPart
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.grammar import CompilePool
from roost_worker.server.argument_check import repeated_key
from worker_harness import Ledger, Stream, World, attempt, reason

REQUIRED = api.Format(tool_choice=api.ToolChoice(mode=api.TOOL_CHOICE_MODE_REQUIRED))
PLAIN = api.Tool(name="plain", parameters_json='{"type": "object"}')
UNENFORCED = api.Tool(name="odd", parameters_json='{"properties": {"a": {"not": {"const": "no"}}}}')


async def _finished(world: World, name: str, arguments: str, form: api.Format | None = None) -> Stream:
    """A session's second step, since its tools, shown in the first one, would not fit the model's context."""
    ledger = Ledger()
    world.script(1, "ok")
    await world.step(ledger)
    world.script(1, f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>')
    stream = await world.begin(ledger, tools=[PLAIN, UNENFORCED], format=form)
    await stream.until("finished")
    return stream


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("plain", '{"a": "no"}'), ("odd", '{"a": "yes"}'), ("odd", "{}"), ("plain", '{"a": {"a": 1}}')],
)
async def test_a_call_that_keeps_its_schema_is_a_call(world: World, name: str, arguments: str) -> None:
    finished = (await _finished(world, name, arguments, REQUIRED)).finished
    assert [(call.name, call.arguments_json) for call in finished.tool_calls] == [(name, arguments)]
    assert list(finished.warnings) == []


@pytest.mark.parametrize(
    ("name", "arguments", "warning"),
    [
        ("odd", '{"a": "no"}', "the arguments of 'odd' break its schema: $.a: 'no' should not be valid under"),
        ("plain", '{"k": 1, "k": 2}', "the arguments of 'plain' hold the key 'k' twice"),
        ("plain", '{"b": [{"k": 1, "\\u006b": 2}]}', "the arguments of 'plain' hold the key 'k' twice"),
        ("odd", '{"": 1, "": 2}', "the arguments of 'odd' hold the key '' twice"),
    ],
)
async def test_a_call_that_does_not_is_text_with_a_warning(
    world: World, name: str, arguments: str, warning: str
) -> None:
    stream = await _finished(world, name, arguments, REQUIRED)
    finished, sent = stream.finished, stream.out.parts.after(0)
    assert finished.content == finished.text
    assert sent[-1] == TextPart(finished.text)
    judged_when_complete = name == "odd"
    assert [type(part) for part in sent[:-1]] == ([] if judged_when_complete else [CallPart, ArgumentsPart])
    assert finished.finish_reason == api.FINISH_REASON_STOP
    assert len(finished.tool_calls) == 0
    assert [text.startswith(f"what looks like a tool call stays text: {warning}") for text in finished.warnings] == [
        True
    ]


@pytest.mark.parametrize("arguments", ['{"a": "no"}', '{"k": 1, "k": 2}'])
async def test_a_call_that_was_not_required_is_passed_on_as_it_was_written(world: World, arguments: str) -> None:
    finished = (await _finished(world, "odd", arguments)).finished
    assert [call.arguments_json for call in finished.tool_calls] == [arguments]


async def test_a_call_that_cannot_be_checked_now_is_checked_when_the_step_is_resumed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.server.shell.grammars.check('{"grammars": [{"json_schema": {}}]}', 60.0)
    ledger = Ledger()
    world.script(1, "ok")
    await world.step(ledger)
    world.script(1, '<tool_call>\n{"name": "odd", "arguments": {}}\n</tool_call>')
    world.gate.let(1)
    stream = await world.begin(ledger, tools=[UNENFORCED], format=REQUIRED)
    await stream.until_tokens(1)
    await world.server.shell.grammars.aclose()
    world.gate.open()
    refusal = await stream.fail()
    assert reason(refusal) == "QUEUE_TIMEOUT"
    assert "the arguments of 'odd' were not checked: the worker stops" in str(refusal.details())

    async with aclosing(CompilePool(world.server.shell.grammars.setup)) as grammars:
        monkeypatch.setattr(world.server.shell, "grammars", grammars)
        old, new = attempt(ledger.epoch), ledger.next_attempt()
        resumed = world.stream()
        await resumed.send(resume=pb.Resume(attempt=old, new_attempt=new, session_id=ledger.session_id))
        await resumed.until("finished")
    assert [call.name for call in resumed.finished.tool_calls] == ["odd"]
    assert list(resumed.finished.warnings) == []


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ("{}", None),
        ('{"a": {"b": 1}, "b": {"a": 1}}', None),
        ('[{"a": 1}, {"a": 1}]', None),
        ('{"a": {"b": 1, "c": 2, "b": 1}}', "b"),
        ('{"\\u00e9": 1, "é": 1}', "é"),
        (f'{{"a": {"9" * 5000}}}', None),
    ],
)
def test_repeated_keys_are_seen_at_any_depth(arguments: str, key: str | None) -> None:
    assert repeated_key(arguments) == key
