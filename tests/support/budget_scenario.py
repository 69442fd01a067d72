"""What a client sees of budgets, on the fake gateway and on real ones."""

from typing import Any

import pytest

from gateway_worlds import World, failing, opened
from roost import BudgetScope
from roost.errors import BudgetPausedError


async def budgets_of_a_role(world: World) -> Any:
    paused, ended = await opened(world, role="paused", task="t"), await opened(world, role="ended")
    results = [await paused.run("x") for _ in range(3)]
    outcomes = [[result.budgets for result in results], await failing(paused.run("x"))]
    with pytest.raises(BudgetPausedError) as error:
        await paused.run("x")
    outcomes += [error.value.budget, (await paused.extend_budget(steps=5, request_id="r")).budgets]
    outcomes += [(await paused.extend_budget(steps=5, request_id="r")).budgets, (await paused.run("x")).budgets]
    child = await opened(world, role="paused", parent=paused.id)
    outcomes.append(await failing(child.run("x")))
    await child.extend_budget(steps=1, scope=BudgetScope.TASK)
    outcomes += [(await child.info()).task, (await child.run("x")).budgets]
    await ended.run("x")
    outcomes += [await failing(ended.run("x")), await failing(ended.extend_budget(steps=1))]
    outcomes += [await failing(paused.extend_budget(tokens=1)), await failing(paused.extend_budget())]
    foreign = (await world.client("key-b")).session(paused.id)
    return [*outcomes, await failing(foreign.extend_budget(steps=1))]
