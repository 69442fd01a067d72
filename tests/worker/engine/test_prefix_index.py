"""Block keys and the index against a plain dictionary of prefixes."""

import hashlib
import struct
from array import array

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roost_worker.engine.prefix_index import PrefixIndex, block_key, extend_keys

BLOCK = 2
IDS = st.lists(st.integers(0, 1), max_size=8)
ROOTS = st.sampled_from([b"one" * 5, b"two" * 5])


def keys_of(root: bytes, ids: list[int]) -> list[bytes]:
    keys: list[bytes] = []
    extend_keys(keys, root, array("i", ids), BLOCK, len(ids) // BLOCK)
    return keys


class PrefixIndexMachine(RuleBasedStateMachine):
    """Listed prefixes by their ids, as the index should know them."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.listed: dict[tuple[bytes, tuple[int, ...]], int] = {}
        self.count = 0

    @rule(root=ROOTS, ids=IDS)
    def add(self, root: bytes, ids: list[int]) -> None:
        keys = keys_of(root, ids)
        for index, key in enumerate(keys):
            prefix = (root, tuple(ids[: (index + 1) * BLOCK]))
            assert self.index.get(key) == self.listed.get(prefix)
            if prefix not in self.listed:
                self.count += 1
                self.index.add(key, self.count)
                self.listed[prefix] = self.count

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.listed:
            prefix = data.draw(st.sampled_from(sorted(self.listed)))
            self.index.remove(self.listed.pop(prefix))

    @rule(root=ROOTS, ids=IDS)
    def match(self, root: bytes, ids: list[int]) -> None:
        expected = []
        for end in range(BLOCK, len(ids) + 1, BLOCK):
            block = self.listed.get((root, tuple(ids[:end])))
            if block is None:
                break
            expected.append(block)
        assert list(self.index.match(keys_of(root, ids))) == expected

    @invariant()
    def both_directions_agree(self) -> None:
        self.index.check_integrity()
        assert self.index.blocks() == set(self.listed.values())
        assert len(self.index) == len(self.listed)


TestPrefixIndex = PrefixIndexMachine.TestCase
TestPrefixIndex.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_key_is_the_published_one() -> None:
    ids = array("i", [1, 2, 70000])
    data = struct.pack("<3I", 1, 2, 70000)
    expected = hashlib.blake2b(data, digest_size=16, key=b"parent", person=b"roost.block").digest()
    assert block_key(b"parent", ids) == expected


@given(IDS, IDS)
def test_keys_are_equal_exactly_for_equal_prefixes(left: list[int], right: list[int]) -> None:
    for index, (first, second) in enumerate(zip(keys_of(b"root", left), keys_of(b"root", right), strict=False)):
        end = (index + 1) * BLOCK
        assert (first == second) == (left[:end] == right[:end])


@given(IDS, st.integers(0, 4))
def test_keys_do_not_depend_on_how_often_they_were_extended(ids: list[int], first: int) -> None:
    keys: list[bytes] = []
    extend_keys(keys, b"root", array("i", ids), BLOCK, min(first, len(ids) // BLOCK))
    extend_keys(keys, b"root", array("i", ids), BLOCK, len(ids) // BLOCK)
    assert keys == keys_of(b"root", ids)
