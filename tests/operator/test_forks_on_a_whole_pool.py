"""Forks on a whole pool of real processes: what they share is not computed again."""

from pathlib import Path

from roost import Sampling
from whole_pool import SHORT, whole_pool

BLOCK_TOKENS = 16
LONG = "The same words, again and again. " * 40


async def test_a_fork_computes_what_is_new_and_no_more(tmp_path: Path) -> None:
    async with whole_pool(tmp_path) as whole:
        session = await whole.anna.open(system="Be brief.")
        early = (await session.run(LONG, sampling=SHORT)).committed.head
        await session.run(LONG, sampling=SHORT)
        for fork in (await session.fork(), await session.fork(early)):
            assert fork.head is not None
            shared = fork.head.length
            result = await fork.run("Go on.", sampling=Sampling(temperature=0.0, max_tokens=4))
            assert result.committed.usage.cached_tokens > shared - 1 - BLOCK_TOKENS
            assert result.committed.usage.reconstructed_tokens < BLOCK_TOKENS
        await session.delete()
        assert (await fork.run("And on.", sampling=SHORT)).committed.index == 2
        await whole.everything_is_free()
