"""What is known of the cluster: right after any order of lists, watches and own writes, and after lost events."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_server import ApiServer
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api
from roost_operator.kubernetes.cache import Cache
from roost_operator.kubernetes.kinds import Kind
from roost_operator.kubernetes.known_objects import Document, KnownObjects
from roost_operator.plan.names import COMPONENT_LABEL, POOL_LABEL

WAIT = 30.0


def document(name: str, version: int, pool: str = "p") -> Document:
    metadata = {"namespace": "n", "name": name, "uid": name, "resourceVersion": str(version)}
    return {"metadata": {**metadata, "labels": {POOL_LABEL: pool}, "managedFields": [{}]}}


def versions(objects: KnownObjects) -> dict[str, int]:
    return {one["metadata"]["name"]: int(one["metadata"]["resourceVersion"]) for one in objects.everything()}


def test_an_event_from_before_our_own_write_does_not_undo_it() -> None:
    objects = KnownObjects()
    objects.told(document("a", 1))
    objects.written(document("a", 3))
    assert not objects.told(document("a", 2))
    assert versions(objects) == {"a": 3}
    assert objects.told(document("a", 3)), "our own write is news to whoever reconciles"


def test_an_answer_that_a_watch_has_outrun_brings_nothing_back() -> None:
    objects = KnownObjects()
    objects.told(document("a", 1))
    assert objects.gone(document("a", 5))
    objects.written(document("a", 4))
    assert versions(objects) == {}
    objects.written(document("a", 6))
    assert versions(objects) == {"a": 6}


def test_a_list_tells_what_was_missed() -> None:
    objects = KnownObjects()
    for name in "abc":
        objects.told(document(name, 1))
    objects.written(document("new", 12))
    news = objects.listed([document("a", 1), document("b", 4), document("d", 5)], "10")
    assert sorted(one["metadata"]["name"] for one in news) == ["b", "c", "d"]
    assert versions(objects) == {"a": 1, "b": 4, "d": 5, "new": 12}


def test_objects_are_found_by_their_pool_whose_label_may_change() -> None:
    objects = KnownObjects()
    objects.told(document("a", 1, "p"))
    objects.told(document("b", 2, "p"))
    objects.told(document("a", 3, "q"))
    assert [one["metadata"]["name"] for one in objects.of_pool("n", "p")] == ["b"]
    assert [one["metadata"]["name"] for one in objects.of_pool("n", "q")] == ["a"]
    objects.gone(document("a", 4, "q"))
    assert objects.of_pool("n", "q") == []
    assert "managedFields" not in objects.everything()[0]["metadata"]


@given(data=st.data())
def test_whatever_is_lost_or_late_a_list_makes_it_right(data: st.DataObject) -> None:
    """Events come late, not at all, or after a newer one; answers to writes come in between; then there is a list."""
    objects, live, history = KnownObjects(), dict[str, int](), []
    for version in range(1, data.draw(st.integers(1, 25)) + 1):
        name = data.draw(st.sampled_from("abc"))
        if name in live and data.draw(st.booleans()):
            del live[name]
            history.append(("gone", document(name, version)))
        else:
            live[name] = version
            history.append(("told", document(name, version)))
            if data.draw(st.booleans()):
                objects.written(document(name, version))
    for kind, event in history:
        if data.draw(st.booleans()):
            (objects.told if kind == "told" else objects.gone)(event)
    objects.listed([document(name, version) for name, version in live.items()], str(len(history)))
    assert versions(objects) == live
    assert {one["metadata"]["name"] for one in objects.of_pool("n", "p")} == set(live)


@pytest.fixture
async def api(api_server: ApiServer) -> AsyncIterator[Api]:
    made = await Api.connect(kubeconfig=api_server.kubeconfig())
    yield made
    await made.aclose()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():  # noqa: ASYNC110  the API server is another process
            await asyncio.sleep(0.02)


def account(namespace: str, name: str, **labels: str) -> Document:
    metadata = {"name": name, "namespace": namespace, "labels": {POOL_LABEL: "p", **labels}}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


class Lossy(Api):
    """A connection whose watches lose every event."""

    async def watch(self, kind: Any, selector: str, version: str, seconds: int) -> AsyncIterator[Document]:
        async for _ in super().watch(kind, selector, version, seconds):
            pass
        return
        yield


async def test_a_cache_follows_the_api_server(api: Api, namespace: str) -> None:
    changed: list[tuple[str, str]] = []
    missing = Kind("example.com/v1", "Missing", "missings", ())
    cache = Cache(api, {kinds.ACCOUNT: POOL_LABEL, missing: ""}, lambda *pool: changed.append(pool))
    running = asyncio.create_task(cache.run())
    try:
        await asyncio.wait_for(cache.synced(), WAIT)
        assert (await cache.knows(kinds.ACCOUNT), await cache.knows(missing)) == (True, False)
        objects = cache._watched["ServiceAccount"].objects
        assert await cache.get(kinds.ACCOUNT, namespace, "a") is None
        await api.apply(kinds.ACCOUNT, account(namespace, "a", **{COMPONENT_LABEL: "worker"}))
        await until(lambda: objects.get(namespace, "a") is not None)
        assert len(await cache.of_pool(kinds.ACCOUNT, namespace, "p", "worker")) == 1
        assert await cache.of_pool(kinds.ACCOUNT, namespace, "p", "head") == []
        await until(lambda: (namespace, "p") in changed)
        await api.delete(kinds.ACCOUNT, namespace, "a")
        await until(lambda: objects.get(namespace, "a") is None)
        assert await cache.get(kinds.SECRET, namespace, "none") is None, "not watched: asked for"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_our_own_writes_are_known_at_once(api: Api, namespace: str) -> None:
    """Not by a watch, which tells nothing here."""
    lossy = Lossy(api._client)
    cache = Cache(lossy, {kinds.ACCOUNT: POOL_LABEL}, lambda *pool: None, relist_seconds=3600)
    running = asyncio.create_task(cache.run())
    try:
        await asyncio.wait_for(cache.synced(), WAIT)
        await lossy.apply(kinds.ACCOUNT, account(namespace, "a"))
        assert await cache.get(kinds.ACCOUNT, namespace, "a")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_lost_events_are_made_good_by_the_next_list(api: Api, namespace: str) -> None:
    cache = Cache(Lossy(api._client), {kinds.ACCOUNT: POOL_LABEL}, lambda *pool: None, relist_seconds=1)
    running = asyncio.create_task(cache.run())
    objects = cache._watched["ServiceAccount"].objects
    try:
        await asyncio.wait_for(cache.synced(), WAIT)
        await api.apply(kinds.ACCOUNT, account(namespace, "a"))
        await until(lambda: objects.get(namespace, "a") is not None)
        await api.delete(kinds.ACCOUNT, namespace, "a")
        await until(lambda: objects.get(namespace, "a") is None)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
