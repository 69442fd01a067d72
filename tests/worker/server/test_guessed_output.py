"""Guesses change neither what a step streams nor what it commits, and are made where the gateway allows them."""

import pytest

from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from worker_harness import Collected, Ledger, World

TEXT = "read a.py, b.py; " * 6 + "END of it"


@pytest.mark.parametrize("prompt_lookup", [False, True])
async def test_a_step_is_streamed_and_committed_as_without_guesses(world: World, prompt_lookup: bool):
    ids, ledger = world.script(1, TEXT), Ledger()
    stream = await world.step(ledger, prompt_lookup=prompt_lookup)
    assert (stream.out.ids, stream.out.text) == (ids, TEXT)
    assert (stream.finished.output_tokens, stream.finished.finish_reason) == (len(ids), api.FINISH_REASON_STOP)
    assert (world.runner.right_guesses > 40) == prompt_lookup
    before = list(ledger.ids)
    again = await world.step(ledger, seed=2)
    assert world.runner.contexts[-1] == [*before, *again.accepted.prompt_token_ids]
    assert again.accepted.cached_tokens == len(before) - 1


@pytest.mark.parametrize("stop", ["END", "py; read", "b.py; read a.py, b.py; r"])
async def test_a_stop_string_among_guesses_drops_what_follows(world: World, stop: str):
    ids, ledger = world.script(1, TEXT), Ledger()
    stream = await world.begin(ledger, sampling={"stop": [stop]}, prompt_lookup=True)
    await stream.until("finished")
    text = TEXT[: TEXT.index(stop)]
    tokens = len(text) + len(stop)
    assert stream.out.text == stream.finished.text == text
    assert (stream.out.ids, stream.finished.output_tokens) == (ids[:tokens], tokens)
    await world.commit(ledger, stream)
    before = list(ledger.ids)
    again = await world.step(ledger, seed=2)
    assert world.runner.contexts[-1] == [*before, *again.accepted.prompt_token_ids]


@pytest.mark.parametrize("delivered", range(30, 60, 4))
async def test_a_replay_of_a_part_of_guessed_tokens_goes_on_behind_it(world: World, delivered: int):
    ids = world.script(1, TEXT)
    replay = pb.Replay(
        prompt_token_ids=[72, 105], output_token_ids=ids[:delivered], text_bytes=delivered, tokens=delivered
    )
    stream = await world.begin(Ledger(), replay=replay, prompt_lookup=True)
    stream.out = Collected(delivered, delivered)
    await stream.until("finished")
    assert stream.out.ids == ids[delivered:]
    assert stream.finished.text == TEXT
    assert world.runner.right_guesses > 0


async def test_an_output_is_resumed_among_guessed_tokens(world: World):
    ids, ledger = world.script(1, TEXT), Ledger()
    first = await world.begin(ledger, prompt_lookup=True)
    await first.until("finished")
    first.break_off()
    second = await world.resume(ledger, 50)
    await second.until("finished")
    assert (second.out.ids, second.out.text) == (ids[50:], TEXT[50:])
