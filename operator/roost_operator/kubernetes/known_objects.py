"""The objects of one kind as they were last told, by lists, watches and answers to our own writes. Pure.

What comes late is passed over: resource versions of one kind of object grow (KEP-5504 lets clients compare them), so
that an event of before our own write does not undo what its answer told.
"""

from collections.abc import Iterable
from typing import Any

from roost_operator.plan.names import POOL_LABEL

Document = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""


class KnownObjects:
    """By key, and by the pool in their label. Documents are without `managedFields`, which are half of their size."""

    def __init__(self) -> None:
        self._objects: dict[Key, Document] = {}
        self._pools: dict[Key, set[Key]] = {}
        self._heard = 0
        """The newest version that a list or a watch has told."""

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, namespace: str, name: str) -> Document | None:
        return self._objects.get((namespace, name))

    def everything(self) -> list[Document]:
        return list(self._objects.values())

    def of_pool(self, namespace: str, pool: str) -> list[Document]:
        """Objects whose label names the pool, sorted by name."""
        return [self._objects[key] for key in sorted(self._pools.get((namespace, pool), ()))]

    def told(self, document: Document) -> bool:
        """A watch tells of an object; whether that is news, or at least no older than what is known."""
        self._heard = max(self._heard, version(document))
        known = self._objects.get(key_of(document))
        if known is not None and version(known) > version(document):
            return False
        self._put(document)
        return True

    def written(self, document: Document) -> None:
        """The answer to a write of ours. One that a watch has outrun, of an object that is gone by now, is passed
        over."""
        known = self._objects.get(key_of(document))
        newest = self._heard if known is None else version(known)
        if version(document) > newest:
            self._put(document)

    def gone(self, document: Document) -> bool:
        """A watch tells that an object was deleted; whether it was known."""
        self._heard = max(self._heard, version(document))
        known = self._objects.get(key_of(document))
        if known is None or version(known) > version(document):
            return False
        self._remove(key_of(document))
        return True

    def listed(self, documents: Iterable[Document], list_version: str) -> list[Document]:
        """All that there are at `list_version`; returns those that are new, changed or gone."""
        at = number(list_version)
        self._heard = max(self._heard, at)
        live = {key_of(document): document for document in documents}
        gone = [known for key, known in self._objects.items() if key not in live and version(known) <= at]
        for document in gone:
            self._remove(key_of(document))
        news = [document for document in live.values() if self._is_news(document)]
        for document in news:
            self._put(document)
        return [*gone, *news]

    def clear(self) -> None:
        """There is no such kind any more."""
        self._objects.clear()
        self._pools.clear()

    def _is_news(self, document: Document) -> bool:
        known = self._objects.get(key_of(document))
        return known is None or version(document) > version(known) or _uid(document) != _uid(known)

    def _put(self, document: Document) -> None:
        key = key_of(document)
        self._remove(key)
        document["metadata"].pop("managedFields", None)
        self._objects[key] = document
        pool = pool_of(document)
        if pool:
            self._pools.setdefault((key[0], pool), set()).add(key)

    def _remove(self, key: Key) -> None:
        known = self._objects.pop(key, None)
        pool = pool_of(known) if known else ""
        if pool:
            group = self._pools[(key[0], pool)]
            group.discard(key)
            if not group:
                del self._pools[(key[0], pool)]


def key_of(document: Document) -> Key:
    return document["metadata"]["namespace"], document["metadata"]["name"]


def pool_of(document: Document) -> str:
    """The pool in its label, or empty."""
    return str((document["metadata"].get("labels") or {}).get(POOL_LABEL, ""))


def version(document: Document) -> int:
    return number(document["metadata"].get("resourceVersion", ""))


def number(text: str) -> int:
    """A resource version as a number; 0, older than all, for what is none."""
    return int(text) if text.isdigit() else 0


def _uid(document: Document) -> str:
    return str(document["metadata"].get("uid", ""))
