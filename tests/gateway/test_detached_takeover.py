"""Responses with `background: true` whose gateways stop or die."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from detached_driver import (
    HTTP,
    OVER,
    PATH,
    TEXT,
    cancel,
    check_whole,
    create,
    get,
    go_on,
    resume,
    status,
    stream,
    stream_at,
)
from gateway_driver import LIMIT_SECONDS, World, world
from http_client import Connection
from null_script import BASE_ID, Script, token_text
from redis_servers import RedisServer, free_port
from roost.contract.reasons import Reason
from roost.store.detached import DetachedReport, DetachedState
from roost.store.records import StoreAwayError
from roost_gateway.core import detached_run
from roost_gateway.front.http.server import HttpServer


@pytest.fixture
async def w(redis_server: RedisServer) -> AsyncIterator[World]:
    """A worker that stops after two tokens until `go_on`."""
    async with world(redis_server, Script(hang_after=2), **HTTP) as running:
        yield running


async def test_another_gateway_goes_on_at_once_when_the_first_one_stops(w: World) -> None:
    dying = await w.rig.gateway(**HTTP)
    async with stream(dying) as connection:
        first = connection.answer.data
        await dying.stop(0.0)
        cut = await connection.end()
    assert not cut.is_complete
    assert cut.data == first, "what breaks is the connection, and not the response"
    await check_taken_over(w, first)


async def test_another_gateway_goes_on_when_the_first_one_is_killed(w: World, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    child = await w.rig.process(tmp_path, http_listen=address)
    async with stream_at(address) as connection:
        child.kill()
        cut = await connection.end()
    assert not cut.is_complete
    await check_taken_over(w, cut.data)


@pytest.mark.parametrize("point", ["gateway.delta.sent", "gateway.finished", "gateway.commit.done"])
async def test_wherever_a_gateway_dies_another_one_ends_the_stream(w: World, tmp_path: Path, point: str) -> None:
    """Also after the commit, which the log does not have yet."""
    w.worker.script.tokens_per_delta = 2
    address = f"127.0.0.1:{free_port()}"
    await w.rig.process(tmp_path, f"{point}:kill:{2 if point == 'gateway.delta.sent' else 1}", http_listen=address)
    async with stream_at(address) as connection:
        go_on(w)
        cut = await connection.end()
    assert not cut.is_complete
    rest = (await resume(w.gateway, cut.data[0]["response"], cut.data[-1]["sequence_number"])).data
    check_whole(cut.data + rest)
    assert len(w.worker.starts) == 1


async def test_a_response_is_handed_over_again_and_again(w: World) -> None:
    """Each gateway writes two tokens more, and stops."""
    gateways = [await w.rig.gateway(**HTTP) for _ in range(3)]
    async with stream(gateways[0]) as connection:
        response = connection.answer.data[0]["response"]
    for number, (stopping, following) in enumerate(pairwise([*gateways, w.gateway]), 1):
        await stopping.stop(0.0)
        w.worker.script.hang_after = 2 + 2 * number
        w.worker.resume_output.set()
        w.worker.resume_output.clear()
        connection = await Connection.to(following.http_address)
        await connection.send("GET", f"{PATH}/{response['id']}?stream=true")
        await connection.head()
        await connection.until(token_text(BASE_ID + 2 * number).strip().encode())
        await connection.close()
    go_on(w)
    await status(w.gateway, response, *OVER)
    check_whole((await get(w.gateway, response, "?stream=true")).data)
    assert (len(w.worker.starts), len(w.worker.resumes)) == (1, 3)


async def check_taken_over(w: World, first: list[dict[str, Any]]) -> None:
    """The gateway that is asked for the rest of a stream continues its step."""
    response = first[0]["response"]
    resuming = w.rig.spawn(resume(w.gateway, response, first[-1]["sequence_number"]))
    await w.worker.until(lambda: w.worker.resumes)
    go_on(w)
    rest = (await resuming).data
    check_whole(first + rest)
    assert (await get(w.gateway, response, "?stream=true")).data == first + rest
    assert len(w.worker.starts) == 1


async def test_a_gateway_that_drains_finishes_its_responses(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though no call waits for them."""
    draining, front_stopped, status_at_end = await w.rig.gateway(**HTTP), asyncio.Event(), list[str]()
    stop, aclose = HttpServer.stop, draining.life.aclose

    async def noted_stop(server: HttpServer, seconds: float) -> None:
        await stop(server, seconds)
        front_stopped.set()

    async def noted_aclose() -> None:
        status_at_end.append((await get(w.gateway, created)).json["status"])
        await aclose()

    monkeypatch.setattr(HttpServer, "stop", noted_stop)
    monkeypatch.setattr(draining.life, "aclose", noted_aclose)
    created = (await create(draining)).json
    await status(w.gateway, created, "in_progress")
    stopping = w.rig.spawn(draining.stop(LIMIT_SECONDS))
    await front_stopped.wait()
    go_on(w)
    await stopping
    assert status_at_end == ["completed"]
    assert not w.worker.resumes


async def test_a_gateway_that_stops_does_not_wait_for_a_store_that_is_away(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step has failed, and the gateway has not been able to say so."""
    monkeypatch.setattr(detached_run, "PATIENCE_SECONDS", 10 * LIMIT_SECONDS)
    w.worker.script.refuse = Reason.INVALID_REQUEST
    dying, reported = await w.rig.gateway(**HTTP), asyncio.Event()

    async def lost(report: DetachedReport) -> bool:
        if report.state is DetachedState.FAILED:
            reported.set()
        raise StoreAwayError("away")

    monkeypatch.setattr(dying.life.store.detached, "report", lost)
    created = (await create(dying)).json
    async with asyncio.timeout(LIMIT_SECONDS):
        await reported.wait()
        await dying.stop(0.0)
    ended = await status(w.gateway, created, *OVER)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "invalid_request")


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_output_that_died_with_gateway_and_worker_is_written_again(w: World, is_streamed: bool) -> None:
    """What clients may have is repeated by the step's seed, and is not logged again."""
    dying = await w.rig.gateway(**HTTP)
    if is_streamed:
        async with stream(dying) as connection:
            first = connection.answer.data
            response = first[0]["response"]
    else:
        response = (await create(dying)).json
        await status(w.gateway, response, "in_progress")
    await dying.stop(0.0)
    w.worker.script.forget_orphans = True
    go_on(w)
    ended = await status(w.gateway, response, *OVER)
    assert (ended["status"], ended["output"][0]["content"][0]["text"]) == ("completed", TEXT)
    assert len(w.worker.starts) == 2
    if is_streamed:
        whole = (await get(w.gateway, response, "?stream=true")).data
        check_whole(whole)
        assert whole[: len(first)] == first


async def test_a_response_whose_gateway_is_gone_is_cancelled(w: World) -> None:
    dying = await w.rig.gateway(**HTTP)
    created = (await create(dying)).json
    await status(w.gateway, created, "in_progress")
    await dying.stop(0.0)
    assert (await cancel(w.gateway, created)).json["status"] == "cancelled"
    assert (await get(w.gateway, created)).json["status"] == "cancelled"
    assert len(w.worker.starts) == 1
