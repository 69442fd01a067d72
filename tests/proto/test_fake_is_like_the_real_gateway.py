"""The same scenarios on the fake gateway and on real ones: what a client sees must be the same."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from budget_scenario import budgets_of_a_role
from fold_scenario import folding
from gateway_worlds import POOL, TEXT, World, failing, fake_world, opened, real_world
from redis_servers import RedisServer
from roost import (
    Committed,
    Delta,
    JsonSchema,
    Message,
    MessageRole,
    Migrated,
    Restarted,
    Session,
    SessionInfo,
    SessionState,
    Started,
    Step,
    Tool,
)
from roost.contract.parts import PartLog

Scenario = Callable[[World], Awaitable[Any]]
GONE = f"{POOL}/{'0' * 26}"


def seen(info: SessionInfo) -> tuple[Any, ...]:
    """What does not depend on how text becomes tokens, nor on how fast workers publish."""
    hold = info.hold and (info.hold.tool, info.hold.expect_seconds, info.hold.begin_time is not None)
    times = (info.create_time is not None, info.update_time is not None)
    return (
        info.pool,
        info.role,
        info.task,
        info.parent,
        info.generation,
        info.state,
        info.steps,
        hold,
        info.labels,
        info.tools,
        times,
    )


async def a_step_and_its_log(world: World) -> Any:
    session = await opened(world, system="Be kind.", tools=[Tool("grep")], task="t", labels={"k": "v"})
    assert session.head is not None
    before = session.head
    events = [event async for event in session.step("hello", temperature=0.5, stop=["never"])]
    kinds = [type(event) for event in events if not isinstance(event, Delta)]
    text = "".join(event.text for event in events if isinstance(event, Delta))
    parts = PartLog(part for event in events if isinstance(event, Delta) for part in event.parts)
    committed = events[-1]
    assert isinstance(committed, Committed)
    result = await session.run("again", seed=7)
    steps = [step async for step in session.steps(include_token_ids=True)]
    info = await session.info()
    return (
        (
            before.length,
            kinds,
            text,
            parts.after(0),
            committed.output,
            committed.finish_reason,
            committed.index,
            committed.replayed,
        ),
        (result.text == TEXT, result.committed.seed, result.committed.index),
        [(step.index, step.messages, step.output, step.finish_reason, step.format) for step in steps],
        [len(step.prompt_token_ids) == step.usage.prompt_tokens for step in steps],
        [len(step.output_token_ids) == step.usage.output_tokens for step in steps],
        (steps[0].sampling.temperature, steps[0].sampling.stop, steps[0].sampling.seed == committed.seed),
        steps[1].sampling.seed,
        [step.why and (step.why.place, step.why.cause, step.why.rebuilt_tokens) for step in steps],
        [step.why for step in steps] == [committed.why, result.why],
        (steps[-1].head == session.head == info.head, seen(info)),
    )


async def a_step_taken_twice(world: World) -> Any:
    session = await opened(world)
    first = await session.run("hello", step_id="s")
    second = await session.run("hello", step_id="s")
    other = await failing(session.run("something else", step_id="s"))
    same = (first.text, first.committed.head, first.committed.seed) == (
        second.text,
        second.committed.head,
        second.committed.seed,
    )
    return same, second.committed.replayed, first.token_ids == second.token_ids, other, (await session.info()).steps


async def a_gateway_that_dies(world: World) -> Any:
    session = await opened(world)
    await session.run("hello")
    events = await world.step_over_a_dead_gateway(session)
    text = "".join(event.text for event in events if isinstance(event, Delta))
    restarts = sum(isinstance(event, Restarted) for event in events)
    starts = sum(isinstance(event, Started) for event in events)
    after = await session.run("after")
    return text, restarts, starts, after.committed.index, (await session.info()).steps


async def heads_that_do_not_fit(world: World) -> Any:
    session = await opened(world)
    await session.run("one")
    kept = session.head
    await session.run("two")
    newest = session.head
    assert kept is not None
    assert newest is not None
    session.head = kept
    missed = [await failing(session.run("three")), await failing(session.hold())]
    session.head = type(newest)(newest.length + 5, b"x" * 16)
    longer = await failing(session.run("three"))
    session.head = type(newest)(newest.length, b"x" * 16)
    different = [await failing(session.run("three")), await failing(session.hold())]
    session.head = newest
    return missed, longer, different, (await session.run("three")).committed.index


async def holding_and_evicting(world: World) -> Any:
    session = await opened(world)
    await session.run("one")
    held = seen(await session.hold(tool="grep", expect_seconds=3))
    looked = seen(await session.info())
    evicted = await session.evict()
    await session.run("two")
    step = [step async for step in session.steps()][-1]
    rebuilt = step.usage.reconstructed_tokens > 0
    return held, looked, evicted > 0, rebuilt, seen(await session.info())


async def closing_and_deleting(world: World) -> Any:
    session = await opened(world)
    await session.run("one", step_id="s")
    closed = [seen(await session.close()), seen(await session.close())]
    refused = [await failing(session.run("two")), await failing(session.hold())]
    replayed = (await session.run("one", step_id="s")).committed.replayed
    log = len([step async for step in session.steps()])
    await session.delete()
    gone = [await failing(call) for call in (session.info(), session.delete(), session.evict(), session.run("x"))]
    return closed, refused, replayed, log, gone


async def what_is_not_there(world: World) -> Any:
    client = await world.client()
    session = client.session(GONE)
    calls = [session.info(), session.run("x"), session.hold(), session.evict(), session.close(), session.delete()]
    return [
        *[await failing(call) for call in calls],
        await failing(anext(session.steps())),
        await failing(client.open(role="nobody")),
        await failing(client.open(pool="default/elsewhere")),
        await failing(anext(client.sessions(pool="default/elsewhere"))),
        await failing(client.open(parent=GONE)),
    ]


async def another_tenant(world: World) -> Any:
    session = await opened(world)
    stranger = await world.client("key-b")
    handle = stranger.session(session.id)
    calls = [handle.info(), handle.run("x"), handle.evict(), handle.close(), handle.delete()]
    listed = [info async for info in stranger.sessions()]
    nobody = await world.client("key-c")
    return [await failing(call) for call in calls], listed, await failing(nobody.open())


async def listing(world: World) -> Any:
    client = await world.client()
    sessions = [await client.open(task=task, role=role) for task, role in (("a", "worker"), ("b", "short"), ("a", ""))]
    await sessions[0].close()
    names = {session.id: number for number, session in enumerate(sessions)}

    async def found(**filters: Any) -> list[int]:
        return [names[info.id] async for info in client.sessions(**filters)]

    return [
        sorted(await found()),
        sorted(await found(page_size=1)),
        sorted(await found(task="a")),
        await found(task="a", state=SessionState.ACTIVE),
        await found(role="short"),
        await found(pool=POOL, state=SessionState.CLOSED, page_size=2),
        await found(task="c"),
    ]


async def opening_twice(world: World) -> Any:
    client = await world.client()
    first = await client.open(request_id="r", role="short")
    second = await client.open(request_id="r", role="short")
    child = await client.open(parent=first)
    return first.id == second.id, (await child.info()).parent == first.id, seen(await first.info())


async def limits_of_a_role(world: World) -> Any:
    short, terse = await opened(world, role="short"), await opened(world, role="terse")
    await short.run("one")
    return [await failing(short.run("two")), await failing(terse.run("x", max_tokens=65))]


async def bad_requests(world: World) -> Any:
    session = await opened(world)
    return [
        await failing(session.run(Message(MessageRole.ASSISTANT, "I say"))),
        await failing(session.run([Message(MessageRole.USER, "x"), Message(MessageRole.ASSISTANT, "I say")])),
        (
            await session.run([Message(MessageRole.ASSISTANT, "I said"), Message(MessageRole.SYSTEM, "Be")])
        ).committed.index,
        await failing(session.run("x", step_id="s" * 65)),
        await failing(session.run("x", step_id="a b")),
        await failing(session.run("x", format=JsonSchema("{"))),
        (await session.run("x")).committed.index,
    ]


async def started(session: Session, text: str, step_id: str) -> Step:
    """A step that has begun."""
    step = session.step(text, step_id=step_id)
    async for event in step:
        if isinstance(event, Started):
            return step
    raise AssertionError("the step ended before it began")


async def a_step_taken_over(world: World) -> Any:
    session = await opened(world)
    other = (await world.client()).session(session.id)
    world.pause()
    first = await started(session, "hello", "s")
    second = await started(other, "hello", "s")
    world.resume()
    result = await second.result()
    return await failing(first.result()), result.text == TEXT, result.committed.index, (await session.info()).steps


async def a_step_during_another(world: World) -> Any:
    session = await opened(world)
    other = (await world.client(give_up_after=0.2)).session(session.id)  # else each refusal is waited out for 6 s
    world.pause()
    step = await started(session, "hello", "s")
    running = (await other.info()).running_step_id
    calls = [other.run("x"), other.run("y", step_id="s"), other.hold(), other.evict(), other.close(), other.delete()]
    refused = [await failing(call) for call in calls]
    await step.aclose()
    while (await other.info()).running_step_id:
        pass
    world.resume()
    return running, refused, (await other.run("x", step_id="s")).committed.index


async def a_changed_model(world: World) -> Any:
    session = await opened(world, system="Be kind.")
    await session.run("one", step_id="a")
    old = session.head
    assert old is not None
    await session.run("two", step_id="b")
    empty, late = await opened(world), (await world.client()).session(session.id)
    late.head = session.head
    await world.change_model(migrates=True)
    events = [event async for event in session.step("three")]
    kinds = [type(event) for event in events if not isinstance(event, Delta)]
    migrated, committed = events[0], events[-1]
    assert isinstance(migrated, Migrated)
    assert isinstance(committed, Committed)
    again = await session.run("two", step_id="b")
    missed = await failing(late.run("four"))
    late.head = old
    before, after = [[step.step_id async for step in session.steps(generation=number)] for number in (1, 2)]
    return (
        (kinds, migrated.generation, migrated.head.generation, committed.index, session.head == committed.head),
        (again.committed.replayed, again.committed.head.generation, again.text == TEXT),
        (missed, await failing(late.run("four")), await failing(anext(session.steps(generation=3)))),
        (before, after[:2], len(after)),
        [type(event) for event in [e async for e in empty.step("x")] if isinstance(event, Migrated)],
        seen(await session.info()),
    )


async def a_model_that_refuses_old_sessions(world: World) -> Any:
    session, empty = await opened(world), await opened(world)
    await session.run("one", step_id="a")
    await world.change_model(migrates=False)
    refused = await failing(session.run("two"))
    again = await session.run("one", step_id="a")
    return refused, again.committed.replayed, (await empty.run("x")).committed.index, seen(await session.info())


SCENARIOS: tuple[Scenario, ...] = (
    a_step_and_its_log,
    a_step_taken_twice,
    a_gateway_that_dies,
    heads_that_do_not_fit,
    holding_and_evicting,
    closing_and_deleting,
    what_is_not_there,
    another_tenant,
    listing,
    opening_twice,
    limits_of_a_role,
    budgets_of_a_role,
    folding,
    bad_requests,
    a_step_taken_over,
    a_step_during_another,
    a_changed_model,
    a_model_that_refuses_old_sessions,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_client_sees_the_same(scenario: Scenario, redis_server: RedisServer, tmp_path: Path) -> None:
    async with fake_world() as fake:
        on_fake = await scenario(fake)
    async with real_world(redis_server, tmp_path) as real:
        on_real = await scenario(real)
    assert on_fake == on_real
