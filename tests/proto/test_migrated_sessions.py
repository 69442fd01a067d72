"""What a client sees and keeps when the pool's model changes under its session."""

import asyncio

import pytest

from roost import Committed, Migrated, Restarted, RetryConfig, Session, errors
from roost.sync import SyncClient
from roost.testing import FakeGateway, Turn

QUICK = RetryConfig(initial_backoff=0.001, max_backoff=0.002, give_up_after=20.0)


async def with_steps(fake: FakeGateway, count: int = 2) -> Session:
    session = await (await fake.connect(retry=QUICK)).open(system="Be kind.")
    for number in range(count):
        await session.run(f"question {number}", step_id=f"s{number}")
    return session


async def test_a_migration_is_an_event_and_moves_the_head() -> None:
    async with FakeGateway() as fake:
        session = await with_steps(fake)
        fake.change_model("second")
        events = [event async for event in session.step("next")]
        migrated, committed = events[0], events[-1]
        assert isinstance(migrated, Migrated)
        assert isinstance(committed, Committed)
        assert (migrated.from_revision, migrated.to_revision, migrated.generation) == ("fake", "second", 2)
        assert migrated.head.generation == committed.head.generation == 2
        assert session.head == committed.head
        assert (await session.info()).generation == 2
        assert not any(isinstance(event, Migrated) for event in [e async for e in session.step("and on")])


async def test_a_result_tells_of_the_migration() -> None:
    async with FakeGateway() as fake:
        session = await with_steps(fake)
        fake.change_model("second")
        moved, after = await session.run("next"), await session.run("and on")
        assert moved.migrated is not None
        assert moved.migrated.to_revision == "second"
        assert after.migrated is None


async def test_both_logs_can_be_read() -> None:
    async with FakeGateway() as fake:
        session = await with_steps(fake)
        fake.change_model("second")
        await session.run("next", step_id="s2")
        old = [step async for step in session.steps(generation=1, include_token_ids=True)]
        new = [step async for step in session.steps(include_token_ids=True)]
        assert [step.step_id for step in old] == ["s0", "s1"]
        assert [step.step_id for step in new] == ["s0", "s1", "s2"]
        assert [step.output for step in new[:2]] == [step.output for step in old]
        assert new[0].head != old[0].head
        with pytest.raises(errors.InvalidRequestError):
            await anext(session.steps(generation=3))


@pytest.mark.parametrize("tokens", [0, 8])
async def test_a_step_sent_again_knows_the_new_head(tokens: int) -> None:
    async with FakeGateway(lambda turn: "a long enough answer", gateways=2) as fake:
        session = await with_steps(fake)
        fake.change_model("second")
        fake.break_next_step(after_tokens=tokens)
        events = [event async for event in session.step("next")]
        assert sum(isinstance(event, Migrated) for event in events) == 1
        assert not any(isinstance(event, Restarted) for event in events)
        first, again = fake.step_requests[-2:]
        assert (first.expected_head.generation, again.expected_head.generation) == (1, 2)


async def test_the_step_before_sent_again_does_not_move_the_head_back() -> None:
    async with FakeGateway() as fake:
        session = await with_steps(fake)
        old = session.head
        assert old is not None
        fake.change_model("second")
        await session.run("next")
        newest = session.head
        result = await session.run("question 1", step_id="s1")
        assert (result.committed.replayed, result.committed.head) == (True, old)
        assert session.head == newest


async def test_another_handle_with_the_old_head_is_told_until_a_step_is_committed() -> None:
    writes = asyncio.Event()
    writes.set()

    async def reply(turn: Turn) -> str:
        await writes.wait()
        return "so"

    async with FakeGateway(reply) as fake:
        session = await with_steps(fake)
        late, later = (session._transport, session.id, session.head), session.head
        fake.change_model("second")
        writes.clear()
        step = session.step("next")
        assert isinstance(await anext(step), Migrated)
        await step.aclose()
        while (await session.info()).running_step_id:
            pass
        writes.set()
        other = Session(*late)
        events = [event async for event in other.step("mine")]
        assert isinstance(events[0], Migrated)
        behind = Session(late[0], late[1], later)
        with pytest.raises(errors.HeadMismatchError):
            await behind.run("too late")


async def test_a_pool_that_refuses_says_so() -> None:
    async with FakeGateway() as fake:
        session = await with_steps(fake)
        empty = await (await fake.connect()).open()
        fake.change_model("second", migrates=False)
        with pytest.raises(errors.ModelRevisionMismatchError):
            await session.run("next")
        assert (await session.info()).generation == 1
        assert (await empty.run("first")).committed.head.generation == 1
        fake.change_model("fake")
        assert (await session.run("next")).committed.head.generation == 1


async def test_the_blocking_client_has_the_event_too() -> None:
    async with FakeGateway() as fake:
        session = await with_steps(fake)
        fake.change_model("second")

        def take() -> list[type]:
            with SyncClient.connect(fake.targets) as client:
                return [type(event) for event in client.session(session.id).step("next")]

        assert Migrated in await asyncio.to_thread(take)
