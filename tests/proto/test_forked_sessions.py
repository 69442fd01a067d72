"""Sessions branched off others by the SDK, on the fake gateway as on real ones."""

from pathlib import Path
from typing import Any

import pytest

from gateway_worlds import TEXT, World, fake_world, real_world
from redis_servers import RedisServer
from roost import ForkPoint, Head, RoostError, Session, SessionInfo
from roost.sync import SyncClient
from roost.testing import FakeGateway, Turn
from threaded_fake import fake_in_thread


async def failing(call: Any) -> tuple[str, str]:
    with pytest.raises(RoostError) as raised:
        await call
    return type(raised.value).__name__, raised.value.reason


async def log(session: Session) -> list[str]:
    return [step.step_id async for step in session.steps()]


def lineage(info: SessionInfo, other: Session, head: Head | None) -> tuple[Any, ...]:
    """What does not depend on how text becomes tokens."""
    point = info.forked_from
    assert isinstance(point, ForkPoint)
    return (
        point.session_id == other.id,
        point.head == head,
        info.steps,
        info.task,
        info.labels,
        info.usage.output_tokens,
    )


async def forks(world: World) -> Any:
    client = await world.client()
    session = await client.open(system="Be kind.", task="t", labels={"a": "b"})
    heads = [session.head]
    for step_id in ("one", "two"):
        await session.run(step_id, step_id=step_id)
        heads.append(session.head)
    await session.close()
    whole = await session.fork(labels={"c": "d"})
    early = await session.fork(heads[1], task="other", request_id="once")
    again = await session.fork(heads[1], task="other", request_id="once")
    empty = await session.fork(Head())
    infos = [
        lineage(await fork.info(), session, head)
        for fork, head in ((whole, heads[2]), (early, heads[1]), (empty, Head()))
    ]
    known = [fork.head == head for fork, head in ((whole, heads[2]), (early, heads[1]), (empty, heads[0]))]
    said = [(await fork.run("three", step_id="mine")).text == TEXT for fork in (whole, early, empty)]
    await session.delete()
    grandchild = await early.fork()
    await early.delete()
    return (
        (infos, known, said, again.id == early.id),
        [await log(fork) for fork in (whole, empty, grandchild)],
        (await grandchild.run("four")).committed.index,
        await failing(session.fork()),
        await failing(whole.fork(Head(3, bytes(16)))),
        await failing((await world.client("key-b")).session(whole.id).fork()),
    )


async def test_a_fork_is_the_same_on_the_fake_gateway_and_on_real_ones(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with fake_world() as fake:
        on_fake = await forks(fake)
    async with real_world(redis_server, tmp_path) as real:
        on_real = await forks(real)
    assert on_fake == on_real
    (infos, known, said, same), logs, index, *refusals = on_fake
    assert [info[:5] for info in infos] == [
        (True, True, 2, "t", {"c": "d"}),
        (True, True, 1, "other", {}),
        (True, True, 0, "t", {}),
    ]
    assert (all(known), all(said), same, index) == (True, True, True, 2)
    assert logs == [["one", "two", "mine"], ["mine"], ["one", "mine"]]
    assert [name for name, _ in refusals] == ["SessionNotFoundError", "SessionRolledBackError", "SessionNotFoundError"]


async def test_a_reply_sees_the_history_that_the_fork_shares() -> None:
    turns: list[Turn] = []

    def reply(turn: Turn) -> str:
        turns.append(turn)
        return f"answer {len(turns)}"

    async with FakeGateway(reply) as fake:
        session = await (await fake.connect()).open(system="Be kind.")
        await session.run("one")
        fork = await session.fork()
        await session.run("two")
        await fork.run("three")
    assert [message.content for message in turns[2].history] == ["one", "answer 1"]
    assert turns[2].system == "Be kind."


async def test_labels_of_a_fork_are_texts() -> None:
    async with FakeGateway() as fake:
        session = await (await fake.connect()).open()
        with pytest.raises(TypeError, match="labels are texts"):
            await session.fork(labels={"a": 1})  # type: ignore[dict-item]


def test_a_blocking_session_is_forked() -> None:
    with fake_in_thread(FakeGateway) as fake, SyncClient.connect(fake.gateway.targets) as client:
        session = client.open()
        session.run("one")
        fork = session.fork()
        assert fork.head == session.head
        fork.run("two")
        assert (fork.info().steps, session.info().steps) == (2, 1)
