"""What a client sees of a folded session, on the fake gateway and on real ones."""

from typing import Any

from gateway_worlds import World, failing, opened


async def folding(world: World) -> Any:
    session = await opened(world)
    stale = (await world.client()).session(session.id)
    for number in range(4):
        await session.run(f"question {number}", step_id=f"s{number}")
        stale.head = stale.head or session.head
    outcomes = [await failing(session.fold("x", keep_turns=4)), await failing(stale.fold("x"))]
    folded = await session.fold("We counted.", keep_turns=1, request_id="r")
    again = await session.fold("We counted.", keep_turns=1, request_id="r")
    outcomes += [folded.generation, folded.steps, again.generation, session.head == folded.head]
    logs = [[step async for step in session.steps(generation=generation)] for generation in (1, 2)]
    outcomes += [[(step.messages, step.output.content) for step in log] for log in logs]
    more, repeated = await session.run("on"), await session.run("question 1", step_id="s1")
    outcomes += [more.committed.index, repeated.committed.replayed]
    own = await session.fold(keep_turns=0)
    outcomes += [own.generation, own.steps, [step.output async for step in session.steps()]]
    return outcomes
