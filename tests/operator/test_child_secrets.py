"""How long a pool's own Secrets are remembered, by a clock that the test sets."""

from collections import Counter

from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Document
from roost_operator.kubernetes.child_secrets import SECRET_SECONDS, ChildSecrets
from roost_operator.kubernetes.kinds import Kind


class PlayedReader:
    """Secrets as they are now, and how often each name was read."""

    def __init__(self) -> None:
        self.objects: dict[str, Document] = {}
        self.reads: Counter[str] = Counter()
        self.seconds = 0.0

    async def knows(self, kind: Kind) -> bool:
        return kind is not kinds.MONITOR

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        self.reads[name] += 1
        return self.objects.get(name)

    async def of_pool(self, kind: Kind, namespace: str, pool: str, component: str = "") -> list[Document]:
        return list(self.objects.values())

    def change(self, name: str, value: str) -> None:
        self.objects[name] = {"metadata": {"name": name, "managedFields": [{}]}, "data": {"key": value}}


def value_of(secret: Document | None) -> str | None:
    return secret["data"]["key"] if secret else None


async def test_a_secret_is_read_again_after_its_time_only() -> None:
    reader = PlayedReader()
    secrets = ChildSecrets(reader, lambda: reader.seconds)
    reader.change("a", "old")
    assert value_of(await secrets.get(kinds.SECRET, "n", "a")) == "old"
    reader.change("a", "new")
    reader.seconds = SECRET_SECONDS - 0.1
    assert value_of(await secrets.get(kinds.SECRET, "n", "a")) == "old"
    assert reader.reads == {"a": 1}
    reader.seconds = SECRET_SECONDS
    assert value_of(await secrets.get(kinds.SECRET, "n", "a")) == "new"
    reader.seconds += SECRET_SECONDS - 0.1
    await secrets.get(kinds.SECRET, "n", "a")
    assert reader.reads == {"a": 2}, "its time counts from the last reading"


async def test_a_secret_that_does_not_exist_is_remembered_too() -> None:
    """The head's Secret of a pool without fault tolerance, which is looked for so that an old one goes."""
    reader = PlayedReader()
    secrets = ChildSecrets(reader, lambda: reader.seconds)
    assert [await secrets.get(kinds.SECRET, "n", name) for name in ("a", "a", "b")] == [None, None, None]
    assert reader.reads == {"a": 1, "b": 1}
    reader.change("a", "made")
    reader.seconds = SECRET_SECONDS
    assert value_of(await secrets.get(kinds.SECRET, "n", "a")) == "made"


async def test_other_kinds_are_read_each_time() -> None:
    reader = PlayedReader()
    secrets = ChildSecrets(reader, lambda: reader.seconds)
    for _ in range(2):
        await secrets.get(kinds.ACCOUNT, "n", "a")
    assert reader.reads == {"a": 2}
    reader.change("a", "x")
    assert await secrets.of_pool(kinds.POD, "n", "p") == list(reader.objects.values())
    assert (await secrets.knows(kinds.POOL), await secrets.knows(kinds.MONITOR)) == (True, False)
