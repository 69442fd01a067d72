"""The objects that kopf watches, as they are known now: from kopf's index, or from something newer than it.

kopf's index alone is not enough (1.45.2). It hears of the operator's own writes late, when the watch shows them, so
that the next reconciliation would write again. And it keeps an object whose deletion fell into a gap of the watch:
after a 410 kopf lists what is there, and nothing says what is not. So answers to writes, and periodic lists of a kind,
are kept beside the index while they are newer: resource versions of one kind grow (KEP-5504 lets clients compare them).
"""

import sys
from collections.abc import Collection, Iterable, Mapping
from operator import itemgetter
from typing import Any

from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document
from roost_operator.kubernetes.kinds import Kind
from roost_operator.plan.names import COMPONENT_LABEL, POOL_LABEL

Key = tuple[str, ...]
"""Kind, namespace and name of an object; or kind, namespace, name of a pool and `_OF_POOL`."""
Index = Mapping[Key, Iterable[Document]]
_OF_POOL = "of pool"
SHARED_LENGTH = 60
"""The longest text that is kept once for all documents: labels, names, images, phases."""
_UNKNOWN = (-1, None)


class KnownObjects:
    """A `Reader` that reads watched kinds without a request, and others from the API server.

    Secrets are not watched: the right to watch them is the right to read all of the cluster's.
    """

    def __init__(self, api: Api, index: Index, custom_kinds: Collection[Kind]) -> None:
        """`custom_kinds` are those of `kinds.CUSTOM` that kopf watches. Answers to writes by `api` are taken up."""
        self._api, self._index, self._custom_kinds = api, index, custom_kinds
        self._newer: dict[Key, tuple[int, Document | None]] = {}
        """Versions of objects that are newer than the index's; without a document the object is gone."""
        api.on_written = self.written

    async def knows(self, kind: Kind) -> bool:
        return kind not in kinds.CUSTOM or kind in self._custom_kinds

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        if kind not in kinds.WATCHED:
            return await self._api.get(kind, namespace, name)
        return self._newest((kind.kind, namespace, name))[1]

    async def of_pool(self, kind: Kind, namespace: str, pool: str, component: str = "") -> list[Document]:
        """Sorted by name."""
        names = {name_of(document) for document in self._index.get((kind.kind, namespace, pool, _OF_POOL), ())}
        names |= {key[2] for key in self._newer if key[:2] == (kind.kind, namespace)}
        newest = (self._newest((kind.kind, namespace, name))[1] for name in sorted(names))
        wanted = {POOL_LABEL: pool, **({COMPONENT_LABEL: component} if component else {})}
        return [document for document in newest if document and wanted.items() <= labels_of(document).items()]

    def heard(self, document: Document, *, deleted: bool) -> None:
        """Takes up an event of the watch, which kopf has put into its index before."""
        key, at = _key(document), version_of(document)
        if self._newer.get(key, _UNKNOWN)[0] > at:
            return
        self._newer.pop(key, None)
        if deleted:  # until the next list: an answer to a write of before the deletion may still come
            self._newer[key] = (at, None)

    def written(self, kind: Kind, document: Document) -> None:
        """Takes up the answer to a write, unless the watch has outrun it."""
        key, at = _key(document), version_of(document)
        if kind in kinds.WATCHED and at > self._newest(key)[0]:
            self._newer[key] = (at, slimmed(document))

    def listed(self, kind: Kind, documents: Iterable[Document], list_version: str) -> list[Document]:
        """Takes up all objects of a kind, as they were at a version; returns those that were not known so."""
        at = version(list_version)
        live = {_key(document): document for document in documents}
        news: list[Document] = []
        for key in self._keys(kind):
            known_at, known = self._newest(key)
            if key not in live and known_at <= at:
                self._newer.pop(key, None)
                if key in self._index:
                    self._newer[key] = (at, None)
                if known is not None:
                    news.append(known)
        for key, document in live.items():
            if version_of(document) > self._newest(key)[0]:
                self._newer[key] = (version_of(document), slimmed(document))
                news.append(document)
        return news

    def _keys(self, kind: Kind) -> set[Key]:
        return {key for key in (*self._index, *self._newer) if key[0] == kind.kind and len(key) == 3}

    def _newest(self, key: Key) -> tuple[int, Document | None]:
        indexed = max(self._index.get(key, ()), key=version_of, default=None)
        known = _UNKNOWN if indexed is None else (version_of(indexed), indexed)
        return max(self._newer.get(key, _UNKNOWN), known, key=itemgetter(0))


def index_entries(document: Document) -> dict[Key, Document]:
    """What the index holds of an object, which is slimmed."""
    entries, pool = {_key(document): slimmed(document)}, labels_of(document).get(POOL_LABEL)
    if pool:
        entries[document["kind"], document["metadata"]["namespace"], pool, _OF_POOL] = entries[_key(document)]
    return entries


def slimmed(document: Document) -> Document:
    """Removes `managedFields`, which are half of a document, and keeps texts that documents share once. Not in a copy:
    kopf itself holds all objects that it lists until it has indexed them all, and that peak stays in the process."""
    document["metadata"].pop("managedFields", None)
    _share_texts(document)
    return document


def _share_texts(value: Any) -> None:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, str) and len(item) <= SHARED_LENGTH:
            value[key] = sys.intern(item)
        elif isinstance(item, dict | list):
            _share_texts(item)


def labels_of(document: Document) -> Mapping[str, str]:
    return document["metadata"].get("labels") or {}


def name_of(document: Document) -> str:
    return str(document["metadata"]["name"])


def version_of(document: Document) -> int:
    return version(document["metadata"].get("resourceVersion", ""))


def version(text: str) -> int:
    """A resource version as a number; 0, older than all, for one that is not a number."""
    return int(text) if text.isdigit() else 0


def _key(document: Document) -> Key:
    return document["kind"], document["metadata"]["namespace"], name_of(document)
