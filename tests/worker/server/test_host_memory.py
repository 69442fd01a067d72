"""What the shell publishes of sessions in host memory, and how long it keeps their logs."""

from roost_worker.engine.messages import EngineStats, Outputs
from worker_harness import Ledger, World


async def test_a_session_in_host_memory_is_published_and_keeps_its_log(world: World) -> None:
    world.script(1, "ok")
    ledger = Ledger()
    await world.step(ledger)
    shell, session = world.server.shell, ledger.session_id
    tokens = shell.residency.on_device[session]
    shell.take(Outputs(dropped=((session, tokens),), warm=((session, 16),)))
    assert shell.residency.published() == {f"{session}:warm": 16}
    (shown,) = (await world.state()).sessions
    assert (shown.session_id, shown.cached_tokens, shown.warm_tokens) == (session, 0, 16)
    assert session in shell.sessions._logs
    shell.take(Outputs(warm=((session, 0),)))
    assert shell.residency.published() == {}
    assert session not in shell.sessions._logs


async def test_a_session_that_comes_back_to_the_device_whole_keeps_its_log(world: World) -> None:
    world.script(1, "ok")
    ledger = Ledger()
    await world.step(ledger)
    shell, session = world.server.shell, ledger.session_id
    tokens = shell.residency.on_device[session]
    shell.take(Outputs(dropped=((session, tokens),), warm=((session, 16),)))
    shell.take(Outputs(parked=((session, tokens),), warm=((session, 0),)))
    assert shell.residency.published() == {session: tokens}
    assert session in shell.sessions._logs


async def test_a_session_that_is_nowhere_cached_loses_its_log_as_before(world: World) -> None:
    world.script(1, "ok")
    ledger = Ledger()
    await world.step(ledger)
    shell, session = world.server.shell, ledger.session_id
    shell.take(Outputs(dropped=((session, 3),)))
    assert session not in shell.sessions._logs


async def test_the_lease_says_how_fast_host_memory_is_only_where_there_is_any(world: World) -> None:
    shell = world.server.shell
    shell.take(Outputs(stats=EngineStats(restore_rate=100.0)))
    assert shell.lease().restore_rate == 0.0
