"""Background requests: they use what no other request can, and leave KV behind for their sessions."""

from engine_driver import EngineDriver
from roost_worker.engine.messages import BACKGROUND, Cancel, StopReason

LOG = list(range(1, 31))


def test_the_kv_of_a_background_prompt_is_there_for_the_sessions_next_request() -> None:
    driver = EngineDriver()
    driver.submit("rebuild", LOG, session="s", priority=BACKGROUND, max_tokens=1)
    driver.run()
    assert driver.resident == {"s": len(LOG)}
    step = driver.submit("step", [*LOG, 40], session="s")
    driver.run()
    assert step.cached_tokens == len(LOG)
    assert step.token_ids == driver.expected(step.request)


def test_a_background_prompt_gives_up_its_slot_and_goes_on_from_what_it_has() -> None:
    driver = EngineDriver(running=1, batch=8)
    rebuild = driver.submit("rebuild", LOG, session="s", priority=BACKGROUND, max_tokens=1)
    driver.iterate()
    step = driver.submit("step", [45, 46], max_tokens=2, priority=3)
    driver.iterate()
    assert step.token_ids, "it runs at once"
    driver.run()
    assert rebuild.stop is StopReason.LENGTH
    computed = sum(len(chunk.token_ids) for plan in driver.runner.plans for chunk in plan.chunks)
    assert computed == len(LOG) + len(step.request.token_ids) + 1, "nothing is computed twice"


def test_a_background_prompt_gives_up_its_blocks() -> None:
    driver = EngineDriver(blocks=9, batch=8)
    driver.submit("rebuild", LOG, session="s", priority=BACKGROUND, max_tokens=1)
    driver.iterate()
    step = driver.submit("step", [45] * 8, max_tokens=1)
    driver.iterate()
    assert step.stop is StopReason.LENGTH
    driver.run()
    assert driver.answers["rebuild"].stop is StopReason.LENGTH


def test_no_request_gives_way_to_a_background_prompt() -> None:
    driver = EngineDriver(running=1, batch=8)
    driver.submit("long", LOG, max_tokens=1)
    driver.iterate()
    rebuild = driver.submit("rebuild", LOG[:8], session="s", priority=BACKGROUND, max_tokens=1)
    while driver.answers["long"].stop is None:
        driver.iterate()
    assert rebuild.outputs == []


def test_a_background_prompt_that_is_cancelled_leaves_what_it_has() -> None:
    driver = EngineDriver(batch=8)
    driver.submit("rebuild", LOG, session="s", priority=BACKGROUND, max_tokens=1)
    driver.iterate()
    driver.send(Cancel("rebuild"))
    step = driver.submit("step", [*LOG, 40], session="s")
    driver.run()
    assert step.cached_tokens == 8


def test_a_rebuild_is_no_lookup() -> None:
    driver = EngineDriver()
    driver.submit("rebuild", LOG, session="s", priority=BACKGROUND, max_tokens=1)
    driver.run()
    assert driver.engine.stats.lookup_tokens == 0
