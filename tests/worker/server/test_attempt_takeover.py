"""Orphans, Resume, fencing, Replay: a started step is never generated twice, and never twice at once."""

import asyncio

import grpc
import pytest

from redis_servers import RedisServer
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.engine.messages import EngineStats
from worker_harness import WAIT, Collected, Ledger, Stream, World, attempt, reason, scripted_world, worker_config


async def resume(world: World, ledger: Ledger | None, old: api.Attempt, *, tokens: int = 0, text: int = 0) -> Stream:
    """Takes over `old` with the ledger's next attempt, as a client would that has this much of the output."""
    stream = world.stream()
    stream.out = Collected(tokens, text)
    new = ledger.next_attempt() if ledger else attempt(99)
    await stream.send(
        resume=pb.Resume(
            attempt=old,
            new_attempt=new,
            session_id=ledger.session_id if ledger else "",
            from_token=tokens,
            from_text_byte=text,
        )
    )
    return stream


async def settled(world: World, condition) -> None:
    """Waits until the shell's state, which changes with engine steps and broken streams, is so."""
    async with asyncio.timeout(WAIT):
        while not condition(world.server.shell):  # noqa: ASYNC110  nothing else to wait on from outside
            await asyncio.sleep(0.005)


def orphaned(shell) -> bool:
    return all(attempt.orphaned_at is not None for attempt in shell.attempts)


def free(stats: EngineStats) -> bool:
    return stats.blocks_in_use == 0 and stats.running == 0 and stats.waiting == 0


async def test_a_broken_stream_decodes_on_and_is_resumed_from_any_cursor(world: World):
    ids, ledger = world.script(1, "aé🦉z"), Ledger()
    world.gate.let(2)
    first = await world.begin(ledger)
    await first.until_tokens(2)
    first.break_off()
    await settled(world, orphaned)
    world.gate.open()
    await settled(world, lambda shell: all(attempt.result for attempt in shell.attempts))
    second = await resume(world, ledger, attempt(1), tokens=2, text=1)
    await second.until("finished")
    assert first.out.ids + second.out.ids == ids
    assert first.out.text + second.out.text == "aé🦉z"
    assert second.accepted.prompt_token_ids == first.accepted.prompt_token_ids
    third = await resume(world, ledger, attempt(2))
    await third.until("finished")
    assert (third.out.ids, third.out.text) == (ids, "aé🦉z")
    assert len(world.runner.contexts) == 1
    await world.commit(ledger, third)
    assert len(world.server.shell.attempts) == 0


async def test_a_stream_that_takes_over_a_finished_output_gets_the_same_call_ids(world: World):
    ledger = Ledger()
    world.script(1, "ok")
    await world.step(ledger)
    world.script(1, '<tool_call>{"name": "grep", "arguments": {}}</tool_call>')
    first = await world.begin(ledger, tools=[api.Tool(name="grep", parameters_json="{}")])
    await first.until("finished")
    second = await resume(world, ledger, attempt(2))
    await second.until("finished")
    assert len(first.finished.tool_calls) == 1
    assert second.finished == first.finished


async def test_a_resume_while_the_old_stream_lives_fences_the_old_one(world: World):
    ids, ledger = world.script(1, "abcd"), Ledger()
    world.gate.let(2)
    first = await world.begin(ledger)
    await first.until_tokens(2)
    second = await resume(world, ledger, attempt(1), tokens=1, text=1)
    await second.until("delta")
    error = await first.fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.ABORTED, "ATTEMPT_FENCED")
    world.gate.open()
    await second.until("finished")
    assert second.out.ids == ids[1:]


async def test_one_shot_work_is_resumed_too(world: World):
    ids = world.script(1, "ab")
    stream = await world.begin(None, attempt=attempt(1))
    await stream.until("finished")
    stream.break_off()
    again = await resume(world, None, attempt(1))
    await again.until("finished")
    assert again.out.ids == ids


@pytest.mark.parametrize(("old", "tokens", "text"), [(5, 0, 0), (1, 9, 0), (1, 0, 9), (1, 1, 1)])
async def test_what_the_worker_does_not_have_is_unknown_and_can_be_started_again(world: World, old, tokens, text):
    """Another attempt, more than was generated, or a cursor inside a character."""
    world.script(1, "é")
    ledger = Ledger()
    stream = await world.begin(ledger)
    await stream.until("finished")
    stream.break_off()
    error = await (await resume(world, ledger, attempt(old), tokens=tokens, text=text)).fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "ATTEMPT_UNKNOWN")
    again = await world.begin(ledger, attempt=attempt(2))
    await again.until("finished")
    await world.commit(ledger, again)


async def test_a_newer_attempt_fences_and_cancels_the_older_one(world: World):
    world.script(1, "abcd")
    ledger = Ledger()
    world.gate.let(1)
    first = await world.begin(ledger)
    await first.until("delta")
    second = await world.begin(ledger)
    error = await first.fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.ABORTED, "ATTEMPT_FENCED")
    world.gate.open()
    await second.until("finished")
    assert second.out.text == "abcd"
    await settled(world, lambda shell: free(shell.stats))


async def test_an_older_attempt_is_refused(world: World):
    world.script(1, "ab")
    ledger = Ledger()
    ledger.epoch = 7
    await world.step(ledger)
    for stale in (api.Attempt(epoch=8, nonce=b"another nonce..."), attempt(7)):
        error = await (await world.begin(ledger, attempt=stale)).fail()
        assert (error.code(), reason(error)) == (grpc.StatusCode.ABORTED, "ATTEMPT_FENCED")
    error = await (await resume_as(world, ledger, attempt(8), attempt(6))).fail()
    assert reason(error) == "ATTEMPT_FENCED"


async def resume_as(world: World, ledger: Ledger, old: api.Attempt, new: api.Attempt) -> Stream:
    stream = world.stream()
    await stream.send(resume=pb.Resume(attempt=old, new_attempt=new, session_id=ledger.session_id))
    return stream


async def test_an_attempt_can_take_over_from_itself_after_its_stream_broke(world: World):
    ids, ledger = world.script(1, "abc"), Ledger()
    stream = await world.begin(ledger)
    await stream.until("finished")
    stream.break_off()
    again = await resume_as(world, ledger, attempt(1), attempt(1))
    await again.until("finished")
    assert again.out.ids == ids


async def test_an_orphan_is_cancelled_when_its_time_is_over(redis_server: RedisServer, tmp_path):
    async with scripted_world(worker_config(redis_server.url, tmp_path), keep_seconds=0.05) as world:
        world.script(1, "abcd")
        ledger = Ledger()
        world.gate.let(1)
        stream = await world.begin(ledger)
        await stream.until("delta")
        stream.break_off()
        await settled(world, lambda shell: not len(shell.attempts))
        world.gate.open()
        await settled(world, lambda shell: free(shell.stats))
        assert reason(await (await resume(world, ledger, attempt(1))).fail()) == "ATTEMPT_UNKNOWN"


async def test_a_finished_output_is_forgotten_when_its_time_is_over(redis_server: RedisServer, tmp_path):
    async with scripted_world(worker_config(redis_server.url, tmp_path), keep_seconds=0.05) as world:
        world.script(1, "ab")
        stream = await world.begin(Ledger())
        await stream.until("finished")
        stream.break_off()
        await settled(world, lambda shell: not len(shell.attempts))


def replay(prompt: list[int], ids: list[int], *, text: int, tokens: int | None = None) -> pb.Replay:
    sent = len(ids) if tokens is None else tokens
    return pb.Replay(prompt_token_ids=prompt, output_token_ids=ids, text_bytes=text, tokens=sent)


PROMPT = [72, 105, 33]


@pytest.mark.parametrize("sent", range(8))
async def test_a_replay_continues_where_the_client_stands(world: World, sent: int):
    """Cut at each token, also inside a character and a stop string's beginning."""
    ids, ledger = world.script(1, "é🦉Ex"), Ledger()
    reference = await world.begin(ledger, sampling={"stop": ["END"]})
    await reference.until("finished")
    text = "".join(delta.text for delta in reference.out.deltas if delta.token_offset < sent)
    stream = await world.begin(
        ledger, replay=replay(PROMPT, ids[:sent], text=len(text.encode())), sampling={"stop": ["END"]}
    )
    stream.out = Collected(sent, len(text.encode()))
    await stream.until("finished")
    assert list(stream.accepted.prompt_token_ids) == PROMPT
    assert (ids[:sent] + stream.out.ids, text + stream.out.text) == (ids, "é🦉Ex")
    assert stream.finished.text == "é🦉Ex"
    assert world.runner.contexts[-1] == PROMPT + ids[:sent]


async def test_a_replay_sends_what_the_client_lacks(world: World):
    ids, ledger = world.script(1, "abcdef"), Ledger()
    stream = await world.begin(ledger, replay=replay(PROMPT, ids[:4], text=1, tokens=2))
    stream.out = Collected(2, 1)
    await stream.until("finished")
    assert (stream.out.ids, stream.out.text) == (ids[2:], "bcdef")


@pytest.mark.parametrize(
    ("text", "sampling", "finish"),
    [
        ("done", {}, api.FINISH_REASON_STOP),
        ("do END", {"stop": ["END"]}, api.FINISH_REASON_STOP),
        ("done", {"max_tokens": 4}, api.FINISH_REASON_LENGTH),
    ],
)
async def test_a_replay_that_already_satisfies_a_stop_finishes_at_once(world: World, text, sampling, finish):
    world.gate.close()
    ids = world.script(1, text)
    ids = ids if not sampling else ids[:-1]
    ledger = Ledger()
    stream = await world.begin(ledger, replay=replay(PROMPT, ids, text=2), sampling=sampling)
    stream.out = Collected(len(ids), 2)
    try:
        await stream.until("finished")
    finally:
        world.gate.open()
    assert (stream.finished.output_tokens, stream.finished.finish_reason) == (len(ids), finish)
    assert stream.finished.text == text.removesuffix("END")
    await stream.commit(ledger.commit(PROMPT + ids))
    assert len(world.server.shell.attempts) == 0
    assert world.runner.contexts == []


async def test_replayed_ids_must_be_the_models(world: World):
    error = await (await world.begin(Ledger(), replay=replay([70000], [], text=0))).fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_cancel_frees_blocks_within_one_iteration(world: World):
    world.script(1, "abcd")
    world.gate.let(1)
    stream = await world.begin(Ledger())
    await stream.until("delta")
    await world.gate.reached()  # else the cancel may come before the second iteration has begun
    await stream.send(cancel=pb.Cancel())
    error = await stream.fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.CANCELLED, "CANCELLED")
    world.gate.let(1)  # the engine's iteration that runs now; the cancel waits behind it
    await settled(world, lambda shell: free(shell.stats))
    assert world.server.shell.stats.generated_tokens == 2


async def test_a_deadline_frees_blocks_and_ends_the_stream(world: World):
    world.script(1, "abcd")
    world.gate.let(1)
    stream = await world.begin(Ledger(), deadline_ms=150)
    await stream.until("delta")
    error = await stream.fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    world.gate.let(1)
    await settled(world, lambda shell: free(shell.stats))


async def test_a_deadline_does_not_undo_a_finished_output(world: World):
    world.script(1, "ab")
    ledger = Ledger()
    stream = await world.begin(ledger, deadline_ms=60_000)
    await stream.until("finished")
    (running,) = world.server.shell.attempts
    assert running.deadline is None
    await world.commit(ledger, stream)


@pytest.mark.parametrize(
    "message",
    [{"commit": pb.Commit()}, {"start": pb.Start()}, {"history": pb.History()}, {"resume": pb.Resume()}],
)
async def test_messages_out_of_order_are_refused_and_lose_nothing(world: World, message):
    ids, ledger = world.script(1, "abcd"), Ledger()
    world.gate.let(1)
    stream = await world.begin(ledger)
    await stream.until("delta")
    await stream.send(**message)
    error = await stream.fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    world.gate.open()
    again = await resume(world, ledger, attempt(1))
    await again.until("finished")
    assert again.out.ids == ids


async def test_the_first_message_must_begin_something(world: World):
    stream = world.stream()
    await stream.send(cancel=pb.Cancel())
    assert (await stream.fail()).code() is grpc.StatusCode.INVALID_ARGUMENT
