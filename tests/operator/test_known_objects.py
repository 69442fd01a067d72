"""What is known of the cluster: right after any order of watches, lists and own writes, and after lost events."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_server import ApiServer
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document
from roost_operator.kubernetes.kinds import Kind
from roost_operator.kubernetes.known_objects import Key, KnownObjects, index_entries
from roost_operator.plan.names import COMPONENT_LABEL, POOL_LABEL

WAIT = 60.0


def document(name: str, version: int, pool: str = "p") -> Document:
    metadata = {"namespace": "n", "name": name, "uid": name, "resourceVersion": str(version)}
    return {"kind": "ServiceAccount", "metadata": {**metadata, "labels": {POOL_LABEL: pool}, "managedFields": [{}]}}


class PlayedIndex(Mapping[Key, list[Document]]):
    """kopf's index: each object as its last event showed it."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[Key, Document]] = {}
        """By uid."""

    def _by_key(self) -> dict[Key, list[Document]]:
        values: dict[Key, list[Document]] = {}
        for entries in self.entries.values():
            for key, value in entries.items():
                values.setdefault(key, []).append(value)
        return values

    def __getitem__(self, key: Key) -> list[Document]:
        return self._by_key()[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_key())

    def __len__(self) -> int:
        return len(self._by_key())


class World:
    """Accounts, of which the operator hears by a watch, by lists and by answers to its writes."""

    def __init__(self) -> None:
        self.index = PlayedIndex()
        self.known = KnownObjects(Api(None), self.index, ())

    def event(self, document: Document, *, deleted: bool = False) -> None:
        uid = document["metadata"]["uid"]
        self.index.entries[uid] = {} if deleted else index_entries(document)
        self.known.heard(document, deleted=deleted)

    def written(self, document: Document) -> None:
        self.known.written(kinds.ACCOUNT, document)

    def listed(self, documents: list[Document], version: int) -> list[str]:
        """Names of those that were not known so."""
        news = self.known.listed(kinds.ACCOUNT, documents, str(version))
        return sorted(child["metadata"]["name"] for child in news)

    async def versions(self) -> dict[str, int]:
        pairs = {name: await self.known.get(kinds.ACCOUNT, "n", name) for name in ("a", "b", "c", "d", "new")}
        return {name: int(child["metadata"]["resourceVersion"]) for name, child in pairs.items() if child}

    async def of_pool(self, pool: str) -> list[str]:
        return [child["metadata"]["name"] for child in await self.known.of_pool(kinds.ACCOUNT, "n", pool)]


async def test_an_event_from_before_our_own_write_does_not_undo_it() -> None:
    world = World()
    world.event(document("a", 1))
    world.written(document("a", 3))
    world.event(document("a", 2))
    assert await world.versions() == {"a": 3}
    world.event(document("a", 3))
    assert await world.versions() == {"a": 3}


async def test_an_answer_that_a_watch_has_outrun_brings_nothing_back() -> None:
    world = World()
    world.event(document("a", 1))
    world.event(document("a", 5), deleted=True)
    world.written(document("a", 4))
    assert await world.versions() == {}
    world.written(document("a", 6))
    assert await world.versions() == {"a": 6}


async def test_a_list_tells_what_was_missed() -> None:
    world = World()
    for name in "abc":
        world.event(document(name, 1))
    world.written(document("new", 12))
    assert world.listed([document("a", 1), document("b", 4), document("d", 5)], 10) == ["b", "c", "d"]
    assert await world.versions() == {"a": 1, "b": 4, "d": 5, "new": 12}
    assert await world.of_pool("p") == ["a", "b", "d", "new"]
    assert world.listed([document("a", 1), document("b", 4), document("d", 5)], 11) == [], "it is no news again"


async def test_an_object_that_is_made_again_after_a_lost_deletion_is_there() -> None:
    world = World()
    world.event(document("a", 1))
    assert world.listed([], 5) == ["a"]
    assert await world.versions() == {}
    again = document("a", 7)
    again["metadata"]["uid"] = "other"
    world.event(again)
    assert await world.versions() == {"a": 7}
    assert await world.of_pool("p") == ["a"]


async def test_objects_are_found_by_their_pool_whose_label_may_change() -> None:
    world = World()
    world.event(document("a", 1, "p"))
    world.event(document("b", 2, "p"))
    world.written(document("a", 3, "q"))
    assert (await world.of_pool("p"), await world.of_pool("q")) == (["b"], ["a"])
    world.event(document("a", 3, "q"))
    assert (await world.of_pool("p"), await world.of_pool("q")) == (["b"], ["a"])
    world.event(document("a", 4, "q"), deleted=True)
    assert await world.of_pool("q") == []
    known = await world.known.get(kinds.ACCOUNT, "n", "b")
    assert known is not None
    assert "managedFields" not in known["metadata"]


@given(data=st.data())
async def test_whatever_is_lost_or_late_a_list_makes_it_right(data: st.DataObject) -> None:
    """Events come late, not at all, or after a newer one; answers to writes come in between; then there is a list."""
    world, live, history = World(), dict[str, int](), []
    for version in range(1, data.draw(st.integers(1, 25)) + 1):
        name = data.draw(st.sampled_from("abc"))
        deleted = name in live and data.draw(st.booleans())
        if deleted:
            del live[name]
        else:
            live[name] = version
            if data.draw(st.booleans()):
                world.written(document(name, version))
        history.append((document(name, version), deleted))
    for event, deleted in history:
        if data.draw(st.booleans()):
            world.event(event, deleted=deleted)
    world.listed([document(name, version) for name, version in live.items()], len(history))
    assert await world.versions() == live
    assert await world.of_pool("p") == sorted(live)
    assert len(world.known._newer) <= len(world.index.entries) + len(live), "nothing stays for ever"


@pytest.fixture
async def api(api_server: ApiServer) -> AsyncIterator[Api]:
    connected = await Api.connect(kubeconfig=api_server.kubeconfig())
    yield connected
    await connected.aclose()


def account(namespace: str, name: str, **labels: str) -> Document:
    metadata = {"name": name, "namespace": namespace, "labels": {POOL_LABEL: "p", **labels}}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


async def test_our_own_writes_are_known_at_once(api: Api, namespace: str) -> None:
    """Not by a watch: this index hears nothing."""
    known = KnownObjects(api, {}, ())
    assert await known.get(kinds.ACCOUNT, namespace, "a") is None
    await api.apply(kinds.ACCOUNT, account(namespace, "a", **{COMPONENT_LABEL: "worker"}))
    assert await known.get(kinds.ACCOUNT, namespace, "a")
    assert len(await known.of_pool(kinds.ACCOUNT, namespace, "p", "worker")) == 1
    assert await known.of_pool(kinds.ACCOUNT, namespace, "p", "head") == []
    assert await known.get(kinds.SECRET, namespace, "none") is None, "not watched: asked for"


async def test_lost_events_are_made_good_by_the_next_list(api: Api, namespace: str) -> None:
    """An index that hears nothing is a watch that loses all."""
    writer, known = Api(api.client), KnownObjects(api, {}, ())

    async def relist() -> list[Any]:
        news = known.listed(kinds.ACCOUNT, *await api.list_at(kinds.ACCOUNT, POOL_LABEL))
        return [child["metadata"]["name"] for child in news if child["metadata"]["namespace"] == namespace]

    await writer.apply(kinds.ACCOUNT, account(namespace, "a"))
    assert await relist() == ["a"]
    assert await known.get(kinds.ACCOUNT, namespace, "a")
    await writer.delete(kinds.ACCOUNT, namespace, "a")
    async with asyncio.timeout(WAIT):  # the garbage collector is another process
        while await known.get(kinds.ACCOUNT, namespace, "a"):
            assert await relist() in (["a"], [])
    assert await relist() == []


async def test_a_kind_that_the_cluster_has_not_is_not_known(api: Api) -> None:
    missing = Kind("example.com/v1", "Missing", "missings", ())
    assert (await api.knows(kinds.POLICY), await api.knows(missing)) == (True, False)
    known = KnownObjects(api, {}, (kinds.SERVICE,))
    assert (await known.knows(kinds.SERVICE), await known.knows(kinds.MONITOR)) == (True, False)
    assert await known.knows(kinds.ACCOUNT)
