"""A changed model: sessions move to it and are told, or, by the other setting, end on the old one in its drain time."""

from typing import Any

import pytest

from roost import Client, Committed, LoggedStep, Migrated, Session, Started, errors
from roost.contract.loghash import extend, pack_ids
from roost_pool import manifests
from roost_pool.waiting import until
from roost_pool.world import START_SECONDS, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
OTHER = {"source": "dummy://llama-tiny", "dtype": "float32"}
"""Made on the spot by whoever loads it."""
DRAIN_SECONDS = 40
"""Long enough for a step on the old workers after the switch, on a busy machine."""


def changed(model: dict[str, Any], policy: str, drain_seconds: int = manifests.DRAIN_SECONDS) -> manifests.Manifest:
    """The sample with another model and policy."""
    pool = manifests.sample()
    pool["spec"]["models"][0].update(model)
    pool["spec"]["sessions"]["onModelChange"] = policy
    pool["spec"]["workers"]["drainTimeoutSeconds"] = drain_seconds
    return pool


async def say(session: Session, text: str) -> tuple[Committed, list[Migrated], str]:
    """A short step: its result, what it told of a migration, and its last worker."""
    migrations: list[Migrated] = []
    worker = ""
    async for event in session.step(text, max_tokens=4, ignore_eos=True, temperature=0.0):
        if isinstance(event, Migrated):
            migrations.append(event)
        elif isinstance(event, Started):
            worker = event.worker
        elif isinstance(event, Committed):
            return event, migrations, worker
    raise AssertionError("a step's last event is Committed")


async def log_of(session: Session, generation: int = 0) -> list[LoggedStep]:
    """A log whose hashes were checked link by link."""
    steps = [step async for step in session.steps(generation=generation, include_token_ids=True)]
    log_hash = b""
    for step in steps:
        log_hash = extend(log_hash, pack_ids([*step.prompt_token_ids, *step.output_token_ids]))
        assert step.head.log_hash == log_hash
    return steps


async def turned(world: World, revision: str) -> str:
    """Waits until the pool has turned away from `revision`; returns the one it turned to."""

    async def other() -> str:
        status = (await world.get("agentpool", manifests.NAME)).get("status") or {}
        active = str(status.get("activeRevision") or "")
        return active if active != revision else ""

    return await until("gateways to be turned to another revision", other, START_SECONDS)


async def moved(session: Session) -> tuple[Committed, Migrated, str] | None:
    """A step, and how it moved the session; None when its gateway had not heard of the change."""
    try:
        committed, migrations, worker = await say(session, "And which was it?")
    except errors.ModelRevisionMismatchError:
        return None
    return (committed, migrations[0], worker) if migrations else None


async def begun(client: Client) -> tuple[Session, str]:
    """A session with two steps, and the revision that it is of."""
    session = await client.open(system="You are terse.", role="coder")
    for text in ("Remember the number seven.", "Which number?"):
        await say(session, text)
    return session, (await session.info()).model_revision


async def test_a_changed_model_takes_sessions_over_or_refuses_them(world: World) -> None:
    await world.ready()
    async with await world.connect() as client:
        session, old = await begun(client)
        before = await log_of(session)
        await world.apply(changed(OTHER, "Migrate"))
        new = await turned(world, old)
        committed, migrated, worker = await until("the session to move", lambda: moved(session), START_SECONDS)
        assert (migrated.from_revision, migrated.to_revision, migrated.generation) == (old, new, 2)
        assert worker in {each.worker_id for each in await world.workers() if each.revision == new}
        ended, after = await log_of(session, 1), await log_of(session)
        assert ended[:2] == before
        assert (committed.index, committed.head.generation, len(after)) == (len(ended), 2, len(ended) + 1)
        assert [(step.step_id, step.output) for step in after[:-1]] == [(step.step_id, step.output) for step in ended]
        assert after[-2].head == migrated.head
        await world.ready()
        assert (await say(session, "Go on."))[1] == []

        bound, revision = await begun(client)
        await world.apply(changed({}, "Refuse", DRAIN_SECONDS))
        assert await turned(world, revision) == old
        committed, migrations, worker = await say(bound, "Are you still there?")
        assert (migrations, committed.head.generation) == ([], 1)
        assert worker in {each.worker_id for each in await world.workers() if each.revision == revision}

        async def gone() -> bool:
            return all(each.revision != revision for each in await world.workers())

        await until("the old workers to go after the drain time", gone, START_SECONDS)
        with pytest.raises(errors.ModelRevisionMismatchError):
            await say(bound, "And now?")
        assert len(await log_of(bound)) == 3
        await world.apply(manifests.sample())
        _, migrated, _ = await until("the refused session to move", lambda: moved(bound), START_SECONDS)
        assert (migrated.from_revision, migrated.to_revision) == (revision, old)
        await world.ready()
