"""A fork's first step finds the KV of the log that it shares, also while the other session runs or after it is gone."""

import pytest

from roost.v1 import worker_service_pb2 as pb
from worker_harness import POOL, Ledger, Stream, World

BLOCK_TOKENS = 16
LONG = "the same words, again and again"
FORK = f"{POOL}/01hzzzzzzzzzzzzzzzzzzzzzf0"


async def begun(world: World, steps: int = 3) -> Ledger:
    world.script(1, "ok")
    ledger = Ledger()
    for _ in range(steps):
        await world.step(ledger, LONG)
    return ledger


def branch(ledger: Ledger, steps: int) -> Ledger:
    """The fork as its gateway knows it: the other session's first steps."""
    fork, start = Ledger(FORK), 0
    for end in ledger.ends[:steps]:
        fork.commit(ledger.ids[start:end])
        start = end
    return fork


async def first_step(world: World, fork: Ledger, text: str = "on", **fields: object) -> Stream:
    stream = await world.begin(fork, text, **fields)
    message = await stream.read()
    assert message is not None
    assert message.need_history.from_token == 0
    await stream.send(history=fork.history(0))
    await stream.until("finished")
    assert world.runner.contexts[-1] == [*fork.ids, *stream.accepted.prompt_token_ids]
    return stream


@pytest.mark.parametrize("steps", [3, 2, 1])
async def test_a_fork_computes_less_than_a_block_of_what_it_shares(world: World, steps: int) -> None:
    ledger = await begun(world)
    fork = branch(ledger, steps)
    stream = await first_step(world, fork)
    assert stream.finished.cached_tokens > len(fork.ids) - 1 - BLOCK_TOKENS
    await world.commit(fork, stream)
    again = await world.step(ledger)
    assert again.finished.cached_tokens > len(ledger.ids) - len(again.out.ids) - 3 * BLOCK_TOKENS


async def test_a_fork_shares_the_log_of_a_session_that_is_running(world: World) -> None:
    ledger = await begun(world)
    world.gate.close()
    running = await world.begin(ledger, "long")
    await world.gate.reached()
    world.gate.open()
    fork = branch(ledger, 3)
    stream = await first_step(world, fork)
    assert stream.finished.cached_tokens > len(fork.ids) - 1 - BLOCK_TOKENS
    await running.until("finished")
    await world.commit(ledger, running)


async def test_a_fork_keeps_what_it_shares_when_the_other_session_is_evicted(world: World) -> None:
    ledger = await begun(world)
    fork = branch(ledger, 3)
    stream = await first_step(world, fork)
    await world.commit(fork, stream)
    before = len(fork.ids)
    await world.call("Evict", pb.EvictRequest(session_id=ledger.session_id, epoch=ledger.epoch + 1))
    assert (await world.step(fork)).finished.cached_tokens == before - 1


async def test_a_fork_of_another_tenant_would_share_nothing(world: World) -> None:
    ledger = await begun(world)
    assert (await first_step(world, branch(ledger, 3), tenant="mallory")).finished.cached_tokens == 0
