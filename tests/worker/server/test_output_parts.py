"""Deltas carry the parts that their text completes, and go on after a resume or a replay where they stopped."""

import threading
from dataclasses import replace

import pytest

from roost.contract.events import ArgumentsPart, CallPart, Part, ReasoningPart, TextPart
from roost.contract.parts import PartLog
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.render.formats import format_named
from roost_worker.render.formats.call_ids import MISTRAL, UNIQUE
from roost_worker.server import generate
from worker_harness import Collected, Ledger, Stream, World, attempt

GREP = api.Tool(name="grep", parameters_json='{"type": "object"}')
SEED = b"of this step"
CALL_ID = UNIQUE.of_call(SEED, 0)
CALL = '<tool_call>\n{"name": "grep", "arguments": {"word": "é🦉"}}\n</tool_call>'
TEXT = f"<think>\nHm.</think>\n\nLook. {CALL}\n"
PARTS = (
    ReasoningPart("Hm."),
    TextPart("Look."),
    CallPart(0, CALL_ID, "grep"),
    ArgumentsPart(0, '{"word": "é🦉"}'),
)


@pytest.fixture
async def ledger(world: World) -> Ledger:
    """A session with one step, since its tools, shown in the first one, would not fit the model's context."""
    ledger = Ledger()
    world.script(1, "ok")
    await world.step(ledger)
    return ledger


async def begin(world: World, ledger: Ledger, text: str = TEXT, **fields) -> Stream:
    world.script(1, text)
    return await world.begin(ledger, tools=[GREP], **{"call_seed": SEED, **fields})


def written(finished: pb.Finished) -> tuple[str, str, list[tuple[str, str, str]]]:
    calls = [(call.id, call.name, call.arguments_json) for call in finished.tool_calls]
    return finished.content, finished.reasoning, calls


async def test_parts_of_all_deltas_are_the_message(world: World, ledger: Ledger):
    stream = await begin(world, ledger)
    await stream.until("finished")
    assert stream.out.text == TEXT
    assert stream.out.parts.after(0) == PARTS
    assert written(stream.finished) == ("Look.", "Hm.", [(CALL_ID, "grep", '{"word": "é🦉"}')])


async def test_arguments_are_sent_while_the_call_is_written(world: World, ledger: Ledger):
    place = TEXT.index("word")
    world.gate.let(len(TEXT[:place].encode()))
    stream = await begin(world, ledger)
    await stream.until_tokens(len(TEXT[:place].encode()))
    assert stream.out.parts.after(0)[2:] == (CallPart(0, CALL_ID, "grep"), ArgumentsPart(0, '{"'))
    world.gate.open()
    await stream.until("finished")


@pytest.mark.parametrize("place", [3, 12, 24, 30, 60, 72, 73, 76, len(TEXT.encode())])
@pytest.mark.parametrize("again", ["resume", "replay"])
async def test_parts_go_on_where_they_stopped(world: World, ledger: Ledger, place: int, again: str):
    world.gate.let(place)
    first = await begin(world, ledger)
    await first.until_tokens(place)
    sent = first.out
    size, text_bytes = sent.parts.size, len(sent.text.encode())
    cursor = Collected(place, text_bytes, part_offset=size)
    if again == "resume":
        second = world.stream()
        await second.send(
            resume=pb.Resume(
                attempt=attempt(ledger.epoch),
                new_attempt=ledger.next_attempt(),
                session_id=ledger.session_id,
                from_token=place,
                from_text_byte=text_bytes,
                from_part=size,
            )
        )
    else:
        replay = pb.Replay(
            prompt_token_ids=first.accepted.prompt_token_ids,
            output_token_ids=sent.ids,
            tokens=place,
            text_bytes=text_bytes,
            parts=size,
        )
        second = await begin(world, ledger, replay=replay)
    second.out = cursor
    world.gate.open()
    await second.until("finished")
    assert sent.text + cursor.text == TEXT
    assert PartLog((*sent.parts.after(0), *cursor.parts.after(0))).after(0) == PARTS
    assert written(second.finished) == ("Look.", "Hm.", [(CALL_ID, "grep", '{"word": "é🦉"}')])


async def test_a_long_output_that_is_replayed_is_read_in_slices(
    world: World, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(generate, "INLINE_BYTES", 5)
    stream = await begin(world, ledger)
    await stream.until("finished")
    replay = pb.Replay(prompt_token_ids=stream.accepted.prompt_token_ids, output_token_ids=stream.out.ids)
    again = await begin(world, ledger, replay=replay)
    await again.until("finished")
    assert again.out.parts.after(0) == PARTS


@pytest.mark.parametrize("spelled_in_a_thread", [True, False])
async def test_an_id_that_the_model_wrote_is_sent_when_the_log_does_not_have_it(
    world: World, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, spelled_in_a_thread: bool
):
    renderer = world.server.shell.renderer
    known = format_named("mistral-v11")
    monkeypatch.setattr(renderer, "format", replace(renderer.format, call_ids=MISTRAL, call_parser=known.call_parser))
    spell, threads = renderer.vocabulary.spell, list[str]()

    def note(ids):
        threads.append(threading.current_thread().name)
        return spell(ids)

    monkeypatch.setattr(renderer.vocabulary, "spell", note)
    if spelled_in_a_thread:
        monkeypatch.setattr(generate, "INLINE_BYTES", 5)
    call = "[TOOL_CALLS]grep[CALL_ID]abc123xyz[ARGS]{}"
    stream = await begin(world, ledger, call * 2)
    await stream.until("finished")
    ids = ["abc123xyz", MISTRAL.of_call(SEED, 1)]
    expected: list[Part] = []
    for index, call_id in enumerate(ids):
        expected += (CallPart(index, call_id, "grep"), ArgumentsPart(index, "{}"))
    assert list(stream.out.parts.after(0)) == expected
    assert [call.id for call in stream.finished.tool_calls] == ids
    assert [name != threading.current_thread().name for name in threads] == [spelled_in_a_thread] * 2


async def test_a_call_that_max_tokens_cuts_off_comes_as_text_too(world: World, ledger: Ledger):
    stream = await begin(world, ledger, CALL, sampling={"max_tokens": 47})
    await stream.until("finished")
    cut = CALL[:47]
    assert stream.out.parts.after(0) == (CallPart(0, CALL_ID, "grep"), ArgumentsPart(0, '{"wor'), TextPart(cut))
    assert written(stream.finished) == (cut, "", [])


async def test_ids_of_calls_follow_from_the_attempt_when_a_gateway_gives_no_seed(world: World, ledger: Ledger):
    stream = await begin(world, ledger, CALL, call_seed=b"")
    await stream.until("finished")
    assert stream.finished.tool_calls[0].id == UNIQUE.of_call(attempt(ledger.epoch).nonce, 0)
