"""Forced tokens, which come several at once, are streamed, cut, resumed and replayed as drawn ones are."""

import pytest

from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from worker_harness import Collected, Ledger, World

TEXT = "say END of 🦉 and more"


async def test_forced_tokens_come_in_the_delta_of_the_token_before_them(world: World):
    ids, ledger = world.script(1, "abcdefghij"), Ledger()
    world.runner.forced = 3
    world.gate.close()
    stream = await world.begin(ledger)
    await stream.until("accepted")
    for text in ("abcd", "abcdefgh", "abcdefghij"):
        world.gate.let(1)
        await stream.until("delta")
        assert stream.out.text == text
    world.gate.open()
    await stream.until("finished")
    assert stream.out.ids == ids
    assert (stream.finished.output_tokens, stream.finished.finish_reason) == (len(ids), api.FINISH_REASON_STOP)
    await world.commit(ledger, stream)
    before = list(ledger.ids)
    again = await world.step(ledger)
    assert world.runner.contexts[-1] == [*before, *again.accepted.prompt_token_ids]


@pytest.mark.parametrize("forced", range(1, 9))
@pytest.mark.parametrize(("stop", "text", "tokens"), [("END", "say ", 7), ("🦉", "say END of ", 15)])
async def test_a_stop_string_among_forced_tokens_drops_what_follows(world: World, forced, stop, text, tokens):
    ids, ledger = world.script(1, TEXT), Ledger()
    world.runner.forced = forced
    stream = await world.begin(ledger, sampling={"stop": [stop]})
    await stream.until("finished")
    assert stream.out.text == stream.finished.text == text
    assert (stream.out.ids, stream.finished.output_tokens) == (ids[:tokens], tokens)
    assert (stream.finished.finish_reason, stream.finished.stop_string) == (api.FINISH_REASON_STOP, stop)
    await world.commit(ledger, stream)
    before = list(ledger.ids)
    again = await world.step(ledger, seed=2)
    assert world.runner.contexts[-1] == [*before, *again.accepted.prompt_token_ids]


@pytest.mark.parametrize("limit", [1, 4, 5, 8])
async def test_max_tokens_drops_forced_tokens_beyond_it(world: World, limit):
    ids = world.script(1, "abcdefghij")
    world.runner.forced = 3
    stream = await world.begin(Ledger(), sampling={"max_tokens": limit})
    await stream.until("finished")
    assert (stream.out.ids, stream.finished.finish_reason) == (ids[:limit], api.FINISH_REASON_LENGTH)


async def test_an_output_is_resumed_among_forced_tokens(world: World):
    ids, ledger = world.script(1, "abcdefghij"), Ledger()
    world.runner.forced = 3
    first = await world.begin(ledger)
    await first.until("finished")
    first.break_off()
    second = await world.resume(ledger, 2)
    await second.until("finished")
    assert (second.out.ids, second.out.text) == (ids[2:], "cdefghij")


@pytest.mark.parametrize("delivered", range(1, 9))
async def test_a_replay_of_a_part_of_forced_tokens_goes_on_behind_it(world: World, delivered: int):
    ids, ledger = world.script(1, "abcdefghij"), Ledger()
    world.runner.forced = 3
    replay = pb.Replay(
        prompt_token_ids=[72, 105], output_token_ids=ids[:delivered], text_bytes=delivered, tokens=delivered
    )
    stream = await world.begin(ledger, replay=replay)
    stream.out = Collected(delivered, delivered)
    await stream.until("finished")
    assert stream.out.ids == ids[delivered:]
    assert stream.finished.text == "abcdefghij"
