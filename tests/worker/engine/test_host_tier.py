"""Host memory: which blocks it keeps, what is cached of a session wherever it is, and that its budget holds."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_worker.engine.host_slots import HostSlots
from roost_worker.engine.host_tier import COPY_SECONDS, FIRST_RESTORES, TRIAL_INTERVAL, HostTier
from roost_worker.engine.plan import HostCopy
from roost_worker.engine.prefix_index import PrefixIndex, extend_keys
from roost_worker.engine.session_chains import SessionChains

KEYS = [bytes([number]) for number in range(12)]
SESSIONS = ("a", "b", "c")
BLOCK = 4


def tier_with(slots: int, blocks: int) -> tuple[HostTier, PrefixIndex]:
    """A tier whose device holds `KEYS[0] .. KEYS[blocks - 1]` in the blocks 1 and up."""
    index = PrefixIndex()
    for block in range(1, blocks + 1):
        index.add(KEYS[block - 1], block)
    return HostTier(slots, BLOCK, index), index


def leave(tier: HostTier, index: PrefixIndex, block: int) -> None:
    """A block leaves the device, as `Retained` lets it."""
    tier.offload(block)
    tier.left_device(index.remove(block))


SLOT_OPERATIONS = st.lists(st.tuples(st.sampled_from(["put", "touch", "remove"]), st.sampled_from(KEYS)))


@given(st.integers(1, 4), SLOT_OPERATIONS)
def test_slots_hold_each_key_once_and_no_more_than_there_are(total: int, operations: list[tuple[str, bytes]]) -> None:
    slots, held = HostSlots(total), dict[bytes, int]()
    for operation, key in operations:
        if operation == "put" and key not in held:
            slot, left = slots.put(key)
            assert (left is None) == (len(held) < total)
            held.pop(left or b"", None)
            assert slot not in held.values(), "a slot is used twice"
            held[key] = slot
        elif operation == "remove":
            slots.remove(key)
            held.pop(key, None)
        elif operation == "touch":
            slots.touch((key,))
        slots.check_integrity()
        assert len(slots) == len(held) <= total
        assert {key: slots.get(key) for key in held} == held


def test_the_end_of_the_context_that_was_not_used_for_longest_leaves_first() -> None:
    slots = HostSlots(4)
    for key in (KEYS[1], KEYS[0], KEYS[3], KEYS[2]):
        slots.put(key)
    slots.touch(KEYS[:2])
    assert [slots.put(key)[1] for key in KEYS[4:8]] == [KEYS[3], KEYS[2], KEYS[1], KEYS[0]]


@given(st.lists(st.tuples(st.sampled_from(SESSIONS), st.lists(st.integers(0, 1), max_size=4), st.booleans())))
def test_chains_are_the_cached_prefixes_of_the_sessions(operations: list[tuple[str, list[int], bool]]) -> None:
    """Against a model that keeps whole lists of keys."""
    chains, model = SessionChains(), dict[str, list[bytes]]()
    for session, ids, cut in operations:
        keys: list[bytes] = []
        extend_keys(keys, b"root", array("i", ids), 1, len(ids))
        before = {key for chain in model.values() for key in chain}
        if cut and keys:
            removed = {*chains.cut_before(keys[-1]), keys[-1]} & before
            model = {name: chain[: _place(chain, keys[-1])] for name, chain in model.items()}
        else:
            removed = set(chains.put(session, keys))
            model[session] = keys
        after = {key for chain in model.values() for key in chain}
        assert removed == before - after
        chains.check_integrity(lambda key, after=after: key in after)
        assert {name: chains.blocks(name) for name in SESSIONS} == {name: len(model.get(name, ())) for name in SESSIONS}


def _place(chain: list[bytes], key: bytes) -> int:
    return chain.index(key) if key in chain else len(chain)


def test_a_block_that_leaves_the_device_is_copied_and_comes_back_from_its_slot() -> None:
    tier, index = tier_with(slots=2, blocks=2)
    leave(tier, index, 2)
    assert tier.plan_restores([KEYS[1]], [5]) == 1
    assert tier.take_copies() == (HostCopy(2, 0), HostCopy(5, 0, restore=True))
    assert tier.note_restored([KEYS[1]], [True]) == 1
    index.add(KEYS[1], 5)
    leave(tier, index, 5)
    assert tier.take_copies() == (), "it still has its copy"


def test_a_block_is_restored_before_its_slot_is_filled_with_another() -> None:
    tier, index = tier_with(slots=1, blocks=2)
    leave(tier, index, 1)
    tier.plan_restores([KEYS[0]], [7])
    leave(tier, index, 2)
    assert tier.take_copies() == (HostCopy(1, 0), HostCopy(7, 0, restore=True), HostCopy(2, 0))
    tier.check_integrity()


def test_what_is_cached_of_a_session_counts_until_the_first_block_that_is_nowhere() -> None:
    tier, index = tier_with(slots=2, blocks=4)
    tier.set_chain("s", KEYS[:4])
    assert tier.take_warm([("s", 16)], []) == ()
    leave(tier, index, 4)
    assert tier.take_warm([("s", 12)], []) == (("s", 4),)
    leave(tier, index, 3)
    assert tier.take_warm([("s", 8)], []) == (("s", 8),)
    leave(tier, index, 2)  # there are two slots: the last block's copy leaves
    assert tier.counters.displaced_blocks == 1
    assert tier.take_warm([("s", 4)], []) == ()
    leave(tier, index, 1)
    assert tier.take_warm([], [("s", 4)]) == ()
    assert tier.plan_restores(KEYS[:4], [1, 2, 3, 4]) == 2
    tier.take_copies()
    tier.check_integrity()


def test_copies_behind_a_block_that_is_nowhere_leave_with_it() -> None:
    tier, index = tier_with(slots=4, blocks=3)
    tier.set_chain("s", KEYS[:3])
    leave(tier, index, 3)
    tier.take_copies()
    tier.left_device(index.remove(2))
    assert len(tier.slots) == 0
    assert tier.take_warm([("s", 4)], []) == ()


def test_a_dropped_session_takes_only_the_copies_that_no_other_session_has() -> None:
    tier, index = tier_with(slots=4, blocks=3)
    tier.set_chain("s", KEYS[:3])
    tier.set_chain("fork", KEYS[:2])
    for block in (3, 2, 1):
        leave(tier, index, block)
    tier.take_copies()
    tier.drop_session("s")
    assert [key in tier.slots for key in KEYS[:3]] == [True, True, False]
    tier.drop_session("fork")
    assert len(tier.slots) == 0
    tier.check_integrity()


def test_a_corrupted_copy_is_dropped_with_what_comes_behind_it() -> None:
    tier, index = tier_with(slots=4, blocks=3)
    tier.set_chain("s", KEYS[:3])
    for block in (3, 2, 1):
        leave(tier, index, block)
    assert tier.plan_restores(KEYS[:3], [1, 2, 3]) == 3
    tier.take_copies()
    assert tier.note_restored(KEYS[:3], [True, False, True]) == 1
    assert (tier.counters.restored_blocks, tier.counters.corrupted_blocks) == (1, 1)
    assert [key in tier.slots for key in KEYS[:3]] == [True, False, False]


def test_a_block_is_kept_only_while_restoring_is_faster_than_computing() -> None:
    tier, index = tier_with(slots=4, blocks=3)
    tier.note_rates(copied_blocks=100.0, prefilled_tokens=100.0 * BLOCK + 1)
    leave(tier, index, 3)
    assert (tier.counters.discarded_blocks, tier.take_copies()) == (1, ())
    tier.note_rates(copied_blocks=100.0, prefilled_tokens=100.0 * BLOCK - 1)
    leave(tier, index, 2)
    assert tier.take_copies() == (HostCopy(2, 0),)
    tier.note_rates(copied_blocks=100.0, prefilled_tokens=0.0)
    leave(tier, index, 1)
    assert len(tier.take_copies()) == 1


def test_a_copy_is_not_restored_while_computing_is_faster() -> None:
    tier, index = tier_with(slots=4, blocks=1)
    leave(tier, index, 1)
    assert tier.restores(KEYS[0])
    assert not tier.restores(KEYS[1])
    tier.note_rates(copied_blocks=1.0, prefilled_tokens=1000.0)
    assert not tier.restores(KEYS[0])


def test_some_blocks_are_kept_though_it_does_not_pay_so_that_it_is_measured_again() -> None:
    index = PrefixIndex()
    tier = HostTier(4, BLOCK, index)
    tier.note_rates(copied_blocks=1.0, prefilled_tokens=1000.0)
    for number in range(2 * TRIAL_INTERVAL):
        index.add(number.to_bytes(2), number + 1)
        leave(tier, index, number + 1)
    assert (tier.counters.offloaded_blocks, tier.counters.discarded_blocks) == (2, 2 * TRIAL_INTERVAL - 2)


@pytest.mark.parametrize(("rate", "most"), [(0.0, FIRST_RESTORES), (1.0, 1), (10 / COPY_SECONDS, 10)])
def test_a_batch_restores_no_more_than_its_time_for_copies_allows(rate: float, most: int) -> None:
    index = PrefixIndex()
    tier = HostTier(40, BLOCK, index)
    keys = [number.to_bytes(2) for number in range(40)]
    for number, key in enumerate(keys):
        index.add(key, number + 1)
        leave(tier, index, number + 1)
    tier.note_rates(rate, 0.0)
    tier.take_copies()
    assert tier.plan_restores(keys, range(40)) == most
    assert tier.plan_restores(keys[most:], range(40)) == 0
    tier.take_copies()
    assert tier.plan_restores(keys[most:], range(40)) == min(most, 40 - most)


def test_without_slots_nothing_is_kept_or_reported() -> None:
    tier, index = tier_with(slots=0, blocks=1)
    tier.set_chain("s", KEYS[:1])
    leave(tier, index, 1)
    assert tier.take_copies() == ()
    assert tier.take_warm([("s", 4)], []) == ()
    assert tier.counters.discarded_blocks == 0
