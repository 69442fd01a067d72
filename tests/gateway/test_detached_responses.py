"""Responses with `background: true`: fetched, followed and ended at any gateway."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from detached_driver import HTTP, OVER, PATH, TEXT, cancel, check_whole, create, get, go_on, resume, status, stream
from gateway_driver import POOL, Rig, World, world
from http_client import Answer, ask
from null_script import Script
from redis_servers import RedisServer
from roost.contract.api_keys import hash_api_key
from roost.contract.reasons import Reason
from roost.contract.steps import StepName
from roost.store.keys import PoolKeys
from roost.store.records import CommitRequest, LogEntry
from roost_gateway.core import detached_log
from roost_gateway.core.caller import ANYONE
from roost_gateway.front.http.ids import name_of


def step_name(response: dict[str, Any]) -> StepName:
    name = name_of(response["id"])
    assert name is not None
    return name.step


@pytest.fixture
async def w(redis_server: RedisServer) -> AsyncIterator[World]:
    """A worker that stops after two tokens until `go_on`."""
    async with world(redis_server, Script(hang_after=2), **HTTP) as running:
        yield running


async def test_a_response_is_fetched_at_any_gateway_while_it_runs_and_afterwards(w: World) -> None:
    other = await w.rig.gateway(**HTTP)
    created = await create(w.gateway, instructions="Be brief.", max_output_tokens=100)
    assert (created.status, created.headers["x-roost-match"]) == (200, "new")
    assert created.json["status"] in ("queued", "in_progress")
    assert (created.json["background"], created.json["output"], created.json["usage"]) == (True, [], None)
    running = await status(other, created.json, "in_progress")
    go_on(w)
    ended = await status(other, created.json, *OVER)
    assert (ended["status"], ended["output"][0]["content"][0]["text"]) == ("completed", TEXT)
    for response in (running, ended):
        for field in ("id", "created_at", "model", "instructions", "max_output_tokens", "background"):
            assert response[field] == created.json[field]
    assert not w.worker.cancels


async def test_a_response_waits_in_the_queue_as_others_do(redis_server: RedisServer) -> None:
    async with Rig(redis_server) as rig:
        gateway = await rig.gateway(**HTTP)
        created = (await create(gateway)).json
        assert (await get(gateway, created)).json["status"] == "queued"
        await rig.worker()
        assert (await status(gateway, created, *OVER))["status"] == "completed"


async def test_a_client_that_leaves_its_stream_cancels_nothing_and_resumes_at_any_gateway(w: World) -> None:
    other = await w.rig.gateway(**HTTP)
    async with stream(w.gateway) as connection:
        first = connection.answer.data
    response = first[0]["response"]
    go_on(w)
    await status(other, response, "completed")
    everything = (await get(other, response, "?stream=true")).data
    check_whole(everything)
    assert everything[: len(first)] == first
    for after in range(len(everything)):
        resumed = await resume(other, response, after)
        assert resumed.is_complete
        assert resumed.data == everything[after + 1 :]
    assert not w.worker.cancels


async def test_a_stream_that_is_resumed_while_the_response_runs_goes_on_live(w: World) -> None:
    other = await w.rig.gateway(**HTTP)
    async with stream(w.gateway) as connection:
        first = connection.answer.data
        resuming = w.rig.spawn(resume(other, first[0]["response"], first[-1]["sequence_number"]))
        go_on(w)
        live = await connection.end()
    resumed = await resuming
    assert live.is_complete
    assert resumed.is_complete
    check_whole(live.data)
    assert first + resumed.data == live.data


async def test_a_response_is_cancelled_at_any_gateway(w: World) -> None:
    other = await w.rig.gateway(**HTTP)
    async with stream(w.gateway) as connection:
        response = connection.answer.data[0]["response"]
        for _ in range(2):
            cancelled = await cancel(other, response)
            assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
        answer = await connection.end()
    assert answer.is_complete
    assert (answer.data[-1]["type"], answer.data[-1]["response"]["status"]) == ("response.failed", "cancelled")
    assert (await get(w.gateway, response)).json["status"] == "cancelled"
    assert (await get(other, response, "?stream=true")).data == answer.data
    await w.worker.until(lambda: w.worker.cancels)


async def test_a_response_that_has_ended_is_not_cancelled_any_more(w: World) -> None:
    created = (await create(w.gateway)).json
    go_on(w)
    await status(w.gateway, created, "completed")
    cancelled = await cancel(w.gateway, created)
    assert (cancelled.status, cancelled.json["status"]) == (200, "completed")
    plain = (await create(w.gateway, background=False)).json
    refused = await cancel(w.gateway, plain)
    assert (refused.status, "background" in refused.json["error"]["message"]) == (400, True)
    assert (await cancel(w.gateway, {"id": "resp_none"})).status == 404


async def test_a_running_response_is_deleted_with_its_session_and_earlier_ones_stay(w: World) -> None:
    first = (await create(w.gateway)).json
    await status(w.gateway, first, "in_progress")
    deleted = await ask(w.gateway.http_address, "DELETE", f"{PATH}/{first['id']}")
    assert (deleted.status, deleted.json["deleted"]) == (200, True)
    assert (await get(w.gateway, first)).status == 404
    with w.rig.redis.client() as raw:
        assert raw.hget(PoolKeys(POOL).session(step_name(first).session_id), "state") == b"deleted"
    go_on(w)
    second = (await create(w.gateway, "again", background=False)).json
    w.worker.resume_output.clear()
    w.worker.script.hang_after = 2
    third = (await create(w.gateway, "and again", previous_response_id=second["id"])).json
    await status(w.gateway, third, "in_progress")
    assert (await ask(w.gateway.http_address, "DELETE", f"{PATH}/{third['id']}")).status == 200
    assert (await get(w.gateway, third)).status == 404
    assert (await get(w.gateway, second)).status == 200
    with w.rig.redis.client() as raw:
        assert not raw.keys("*:detached:*")


async def test_a_completed_response_is_deleted_as_others_are_and_with_all_that_was_kept_of_it(w: World) -> None:
    go_on(w)
    async with stream(w.gateway, until="response.completed") as connection:
        first = connection.answer.data[0]["response"]
    assert (await ask(w.gateway.http_address, "DELETE", f"{PATH}/{first['id']}")).status == 200
    for query in ("", "?stream=true"):
        gone = await get(w.gateway, first, query)
        assert (gone.status, "no such response" in gone.json["error"]["message"]) == (404, True)
    continued = await create(w.gateway, previous_response_id=first["id"])
    assert (continued.status, "no such response" in continued.json["error"]["message"]) == (404, True)
    with w.rig.redis.client() as raw:
        assert not raw.keys("*:detached:*")


async def test_a_response_whose_session_is_gone_does_not_exist_and_the_same_request_gets_another(w: World) -> None:
    go_on(w)
    job: dict[str, Any] = {"prompt_cache_key": "job", "stream": True}
    first = (await create(w.gateway, **job)).data[-1]["response"]
    await w.gateway.life.gateway.delete(step_name(first).session_id, ANYONE)
    assert (await get(w.gateway, first, "?stream=true")).status == 404
    check_whole((again := await create(w.gateway, **job)).data)
    assert again.data[-1]["response"]["id"] != first["id"]


async def test_a_response_can_be_continued_once_it_is_completed(w: World) -> None:
    first = (await create(w.gateway)).json
    await status(w.gateway, first, "in_progress")
    early = await create(w.gateway, "more", previous_response_id=first["id"])
    assert (early.status, early.json["error"]["param"]) == (400, "previous_response_id")
    assert "in_progress" in early.json["error"]["message"]
    go_on(w)
    await status(w.gateway, first, "completed")
    second = await create(w.gateway, "more", previous_response_id=first["id"])
    assert second.headers["x-roost-match"] == "continued"
    ended = await status(w.gateway, second.json, *OVER)
    assert (ended["status"], ended["previous_response_id"]) == ("completed", first["id"])


@pytest.mark.parametrize("is_local", [True, False])
async def test_a_request_that_is_sent_again_gets_the_response_that_runs(w: World, is_local: bool) -> None:
    gateway = w.gateway if is_local else await w.rig.gateway(**HTTP)
    created = (await create(w.gateway)).json
    await status(gateway, created, "in_progress")
    body = {"input": "hello", "model": "null", "background": True}
    retry = {"x_stainless_retry_count": "1"}
    again = await ask(gateway.http_address, "POST", PATH, body, **retry)
    assert (again.json["id"], again.headers["x-roost-match"]) == (created["id"], "attached")
    go_on(w)
    await status(gateway, created, "completed")
    late = await ask(gateway.http_address, "POST", PATH, body, **retry)
    assert (late.json["id"], late.json["status"]) == (created["id"], "completed")
    assert (len(w.worker.starts), len(w.worker.resumes)) == (1, 0)


async def test_a_stream_of_a_response_that_runs_without_one_is_refused_with_its_id(w: World) -> None:
    created = (await create(w.gateway, prompt_cache_key="job")).json
    refused = await create(w.gateway, prompt_cache_key="job", stream=True)
    assert (refused.status, refused.json["error"]["param"]) == (400, "stream")
    assert f"get {created['id']} without stream" in refused.json["error"]["message"]


async def test_a_plain_request_for_the_same_step_attaches_and_the_response_goes_on(w: World) -> None:
    async with stream(w.gateway) as connection:
        body = {"input": "hello", "model": "null"}
        asking = w.rig.spawn(ask(w.gateway.http_address, "POST", PATH, body, x_stainless_retry_count="1"))
        await w.worker.until(lambda: w.worker.resumes)
        go_on(w)
        plain, streamed = await asking, await connection.end()
    assert (plain.headers["x-roost-match"], plain.json["status"]) == ("attached", "completed")
    check_whole(streamed.data)
    assert len(w.worker.starts) == 1


async def test_a_response_that_was_cancelled_is_begun_anew_by_the_same_request(w: World) -> None:
    session = {"prompt_cache_key": "job"}
    created = (await create(w.gateway, **session)).json
    await status(w.gateway, created, "in_progress")
    await cancel(w.gateway, created)
    go_on(w)
    again = (await create(w.gateway, **session)).json
    assert (await status(w.gateway, again, *OVER))["status"] == "completed"


async def test_a_response_that_fails_says_why_for_ever_in_the_same_words(w: World) -> None:
    w.worker.script.refuse = Reason.INVALID_REQUEST
    async with stream(w.gateway, until="response.failed") as connection:
        answer = await connection.end()
    assert answer.is_complete, "the stream has all that there is"
    failed = answer.data[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "invalid_request")
    assert (await get(w.gateway, failed)).json == failed
    assert (await get(w.gateway, failed, "?stream=true")).data == answer.data


async def test_a_stream_that_is_too_long_to_be_kept_fails_and_another_response_does_not(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detached_log, "MOST_LOGGED_BYTES", 20)
    go_on(w)
    async with stream(w.gateway, until="response.failed") as connection:
        last = (await connection.end()).data[-1]["response"]
    assert (last["status"], last["error"]["code"]) == ("failed", "message_too_large")
    created = (await create(w.gateway, "another")).json
    assert (await status(w.gateway, created, *OVER))["status"] == "completed"


async def test_events_that_are_not_kept_any_more_are_refused(w: World) -> None:
    go_on(w)
    async with stream(w.gateway, until="response.completed") as connection:
        response = connection.answer.data[0]["response"]
    name = step_name(response)
    with w.rig.redis.client() as raw:
        raw.delete(PoolKeys(POOL).detached(name.session_id, name.step_id).events)
    for refused in (await resume(w.gateway, response, 1), await get(w.gateway, response, "?stream=true")):
        assert (refused.status, refused.json["error"]["param"]) == (400, "stream")
    assert (await get(w.gateway, response)).json["status"] == "completed"


async def test_what_cannot_be_had_is_refused_by_name(w: World) -> None:
    for fields, param in (({"store": False}, "store"), ({"background": 1}, "background")):
        refused = await create(w.gateway, **fields)
        assert (refused.status, refused.json["error"]["param"]) == (400, param)
    assert (await create(w.gateway, model="other")).status == 404
    created = (await create(w.gateway, store=True)).json
    for query, param in (("?stream=true", "stream"), ("?starting_after=x", "starting_after")):
        refused = await get(w.gateway, created, query)
        assert (refused.status, refused.json["error"]["param"]) == (400, param)


async def test_another_tenants_response_does_not_exist(redis_server: RedisServer, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    entries = [
        {"id": name, "sha256": hash_api_key(name), "tenant": name, "pools": pools}
        for name, pools in (("alice", ["*"]), ("mallory", ["*"]), ("bob", ["another/pool"]))
    ]
    keys.write_text(yaml.safe_dump({"keys": entries}))
    async with world(redis_server, Script(hang_after=2), **HTTP, api_keys_file=keys) as w:
        address = w.gateway.http_address

        async def sent(key: str, method: str, path: str, body: object = None) -> Answer:
            return await ask(address, method, path, body, authorization=f"Bearer {key}")

        body = {"input": "hello", "background": True}
        path = f"{PATH}/{(await sent('alice', 'POST', PATH, body)).json['id']}"
        calls = (("GET", path), ("GET", f"{path}?stream=true"), ("POST", f"{path}/cancel"), ("DELETE", path))
        for key in ("mallory", "bob"):
            for method, called in calls:
                answer = await sent(key, method, called)
                assert (answer.status, "no such response" in answer.json["error"]["message"]) == (404, True)
        assert (await sent("alice", "GET", path)).json["status"] in ("queued", "in_progress")


async def test_steps_that_are_not_detached_write_nothing_of_the_kind(w: World) -> None:
    go_on(w)
    for is_streamed in (False, True):
        assert (await create(w.gateway, background=False, stream=is_streamed)).status == 200
    with w.rig.redis.client() as raw:
        assert not raw.keys("*:detached:*")


@pytest.mark.parametrize("is_committed", [True, False])
async def test_a_response_that_is_cancelled_while_it_is_being_committed_is_one_or_the_other(
    w: World, monkeypatch: pytest.MonkeyPatch, is_committed: bool
) -> None:
    """Whichever the store has first."""
    store, reached, released = w.gateway.life.store, asyncio.Event(), asyncio.Event()
    commit = store.commit

    async def slow_commit(request: CommitRequest) -> LogEntry:
        if not is_committed:
            reached.set()
            await released.wait()
        entry = await commit(request)
        reached.set()
        await released.wait()
        return entry

    monkeypatch.setattr(store, "commit", slow_commit)
    go_on(w)
    created = (await create(w.gateway)).json
    await reached.wait()
    cancelled = await cancel(w.gateway, created)
    released.set()
    assert cancelled.json["status"] == ("completed" if is_committed else "cancelled")
    assert (await get(w.gateway, created)).json["status"] == cancelled.json["status"]
    continued = await create(w.gateway, "more", previous_response_id=created["id"])
    assert continued.status == (200 if is_committed else 400)
