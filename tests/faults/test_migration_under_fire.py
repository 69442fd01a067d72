"""A pool whose model was changed in the same state directory: its sessions migrate, whoever dies on the way.

The first run of the pool makes the sessions, the second one serves another model (other weights, other vocabulary).
Both run in float64, so that every session must say the same, token by token, as one that migrated in peace.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from fault_stack import CLOSING, LONG, QUESTION, SHORT, FaultStack, Seen, client_process, fault_stack, log_of, watch
from roost import Client, LoggedStep, Session, errors
from roost.fault_points import MIGRATION_POINTS
from roost_worker.engine.messages import SamplingParams
from roost_worker.oracle import JudgedStep as Judged
from roost_worker.oracle import Oracle, judge

pytestmark = [pytest.mark.faults, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

NEW_MODEL = "dummy://llama-tiny-pairs"
STEP = "step-under-fire"
CASES = [
    *((point, "gateway") for point in MIGRATION_POINTS),
    ("worker.render.step", "worker"),
    ("gateway.rendered", "worker"),
    ("gateway.rendered", "redis"),
    ("gateway.migrated", "worker"),
    ("gateway.migrated", "redis"),
    ("gateway.rendered", "client"),
]
OTHERS = ("in-peace", "refused")


async def talk(client: Client) -> str:
    """A session with three committed steps; its name."""
    session = await client.open(role="agent", system="You are terse: then and on.")
    for text in ("Begin.", "then <|im_end|> on", "And again."):
        await session.run(text, sampling=SHORT)
    return session.id


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("migration")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sessions(folder: Path) -> dict[object, str]:
    """A session for each case, made by the old model."""
    async with fault_stack(folder) as old, await Client.connect(old.stack.targets) as client:
        names = await asyncio.gather(*(talk(client) for _ in (*CASES, *OTHERS)))
    return dict(zip((*CASES, *OTHERS), names, strict=True))


@dataclass(frozen=True)
class Refusal:
    """What a pool with `onModelChange: Refuse` did with a session of the old model."""

    error: errors.RoostError | None
    log: list[LoggedStep]
    generation: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refusal(folder: Path, sessions: dict[object, str]) -> Refusal:
    """Runs in the same folder, after the old model's pool and before that which migrates the sessions."""
    async with fault_stack(folder, NEW_MODEL, "Refuse") as pool, await Client.connect(pool.stack.targets) as client:
        session = await known(client, sessions["refused"])
        error = None
        try:
            await session.run(QUESTION, sampling=LONG)
        except errors.RoostError as refused:
            error = refused
        return Refusal(error, await log_of(session), (await session.info()).generation)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(folder: Path, sessions: dict[object, str], refusal: Refusal) -> AsyncIterator[FaultStack]:
    async with fault_stack(folder, NEW_MODEL) as stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(pool: FaultStack) -> AsyncIterator[Client]:
    async with await Client.connect(pool.stack.targets) as client:
        yield client


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def in_peace(client: Client, sessions: dict[object, str]) -> Seen:
    return await watch(await known(client, sessions["in-peace"]), QUESTION, STEP)


async def known(client: Client, name: str) -> Session:
    """A handle that knows the head that its owner saw last."""
    session = client.session(name)
    await session.info()
    return session


async def check(session: Session, expected: Seen) -> list[LoggedStep]:
    """Both logs are whole, the new one says what the old one said, and the session goes on in it."""
    old, new = await log_of(session, 1), await log_of(session)
    assert (await session.info()).generation == 2
    assert [(step.step_id, step.messages, step.output) for step in new[:3]] == [
        (step.step_id, step.messages, step.output) for step in old
    ]
    assert [step.step_id for step in new[3:]] == [STEP]
    assert expected.result is not None
    assert new[3].output_token_ids == tuple(expected.token_ids)
    assert new[3].head.log_hash == expected.result.committed.head.log_hash
    return new


async def test_a_pool_that_refuses_keeps_the_old_log_readable(refusal: Refusal) -> None:
    assert isinstance(refusal.error, errors.ModelRevisionMismatchError)
    assert "onModelChange" in str(refusal.error)
    assert (len(refusal.log), refusal.generation) == (3, 1)


async def test_the_new_model_takes_the_log_over_and_the_oracle_agrees(
    pool: FaultStack, client: Client, sessions: dict[object, str], in_peace: Seen, one_thread: None
) -> None:
    (migrated,) = in_peace.migrations
    session = await known(client, sessions["in-peace"])
    new = await check(session, in_peace)
    old = await log_of(session, 1)
    assert migrated.head == new[2].head
    assert (migrated.to_revision, migrated.generation) == ((await session.info()).model_revision, 2)
    assert migrated.from_revision != migrated.to_revision
    assert len(new[0].prompt_token_ids) < len(old[0].prompt_token_ids), "pairs of letters are one token now"
    ended = {258: 2, 256: 0}  # <|im_end|> stands where the template wrote it, however the user's words look
    assert [new[1].prompt_token_ids.count(token) for token in ended] == list(ended.values())
    drawn = SamplingParams(temperature=0.0, max_tokens=24)
    log = [Judged([*step.prompt_token_ids, *step.output_token_ids], ()) for step in new[:3]]
    log.append(Judged(new[3].prompt_token_ids, new[3].output_token_ids, drawn))
    reports = await asyncio.to_thread(Oracle(pool.stack.model_dir, "int8", "int8").score, log)
    assert len(reports) == 24
    assert judge(reports).token_exact


@pytest.mark.parametrize("case", CASES, ids="-".join)
async def test_a_death_on_the_way_to_another_revision(
    pool: FaultStack, client: Client, sessions: dict[object, str], in_peace: Seen, case: tuple[str, str]
) -> None:
    point, victim = case
    session = await known(client, sessions[case])
    armed = pool.arm(point, "pause")
    try:
        if victim == "client":
            async with client_process(pool.stack.targets, session.id, STEP) as kill:
                await armed.reached()
                kill()
                armed.go()
            seen = await watch(session, QUESTION, STEP)
        else:
            task = asyncio.create_task(watch(session, QUESTION, STEP))
            await pool.strike(victim, await armed.reached(), session)
            armed.go()
            seen = await task
    finally:
        armed.go()
    await pool.whole()
    armed.disarm()
    assert len(seen.migrations) <= 1
    if victim != "client":
        assert seen.migrations, "the client is told, whichever gateway is left to do so"
    assert seen.token_ids == in_peace.token_ids
    await check(session, in_peace)
    assert (await session.run(CLOSING, sampling=SHORT)).committed.index == 4
