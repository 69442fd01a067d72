"""What Redis keeps is read back exactly, and what Roost did not write is refused."""

import zlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.contract.heads import Head
from roost.store import codec
from roost.store.records import LogEntry
from store_driver import new_session

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
COUNT = st.integers(0, 2**31)
ENTRIES = st.builds(
    LogEntry,
    step_id=TEXT,
    index=COUNT,
    messages=st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=3).map(tuple),
    output=st.dictionaries(TEXT, JSON, max_size=3),
    finish_reason=TEXT,
    prompt_tokens=COUNT,
    output_tokens=COUNT,
    cached_tokens=COUNT,
    reconstructed_tokens=COUNT,
    head=st.builds(Head, COUNT, st.binary(min_size=16, max_size=16)),
    seed=st.integers(0, 2**64 - 1),
    sampling=st.dictionaries(TEXT, JSON, max_size=3),
    format=st.none() | st.dictionaries(TEXT, JSON, max_size=3),
    model_revision=TEXT,
    worker_id=TEXT,
    commit_ms=COUNT,
)


def stored(entry: LogEntry) -> bytes:
    return b"%d:" % entry.commit_ms + codec.encode_entry(entry)


@settings(max_examples=100, deadline=None)
@given(ENTRIES)
def test_an_entry_is_read_back_as_written(entry):
    assert codec.decode_entry(stored(entry), entry.index) == entry


@settings(max_examples=5, deadline=None)
@given(ENTRIES)
def test_gateways_of_other_versions_read_a_stored_head(entry):
    """They refuse an entry whose head has another field."""
    packed = stored(entry).partition(b":")[2][1:]
    assert msgpack.unpackb(zlib.decompress(packed))["head"] == {
        "length": entry.head.length,
        "log_hash": entry.head.log_hash,
    }


@settings(max_examples=100, deadline=None)
@given(ENTRIES, st.data())
def test_a_damaged_entry_is_refused_or_the_same(entry, data):
    good = stored(entry)
    at = data.draw(st.integers(good.index(b":"), len(good) - 1))
    bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    try:
        read = codec.decode_entry(bad, entry.index)
    except codec.CorruptRecordError:
        return
    assert read == entry


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"7",
        b"7:",
        b"7:\x02anything",
        b"x:\x01" + zlib.compress(msgpack.packb({})),
        b"7:\x01" + zlib.compress(msgpack.packb({"head": {}})),
        b"7:\x01" + zlib.compress(msgpack.packb([1])),
        b"7:\x01" + zlib.compress(b"\xc1"),
    ],
)
def test_what_is_no_entry_is_refused(bad):
    with pytest.raises(codec.CorruptRecordError, match="log entry 3"):
        codec.decode_entry(bad, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("length", b"x"),
        ("labels", b"{"),
        ("state", b"asleep"),
        ("hash", b"zz"),
        ("system", b"\xff"),
        ("tenant", None),
        ("date", b"today"),
    ],
)
def test_a_damaged_descriptor_is_refused_by_name(field, value):
    new = new_session()
    fields = {name: str(value).encode() for name, value in codec.encode_new(new).items()}
    fields |= dict.fromkeys(("created", "updated", "expires"), b"1")
    assert codec.decode_descriptor(new.session_id, fields, 0).tools == new.tools
    if value is None:
        del fields[field]
    else:
        fields[field] = value
    with pytest.raises(codec.CorruptRecordError, match=new.session_id):
        codec.decode_descriptor(new.session_id, fields, 0)


@pytest.mark.parametrize("written", [{}, {"date": b""}])
def test_a_session_that_was_written_without_a_date_has_the_day_of_its_creation(written):
    new = new_session()
    fields = {name: str(value).encode() for name, value in codec.encode_new(new).items() if name != "date"} | written
    fields |= {"created": b"1795996799999", "updated": b"1", "expires": b"0"}
    assert codec.decode_descriptor(new.session_id, fields, 0).date == "2026-11-29"


@pytest.mark.parametrize(("steps", "begins"), [("0", None), ("2", 0)])
def test_a_log_that_was_begun_before_thinking_was_noted_may_hold_some(steps, begins):
    new = new_session()
    fields = {name: str(value).encode() for name, value in codec.encode_new(new).items() if name != "thinking"}
    fields |= {"created": b"1", "updated": b"1", "expires": b"0", "steps": steps.encode()}
    assert codec.decode_descriptor(new.session_id, fields, 0).thinking_from == begins


@pytest.mark.parametrize("text", [b"[1]", b"{", b"7"])
def test_a_document_that_is_no_object_is_refused(text):
    with pytest.raises(codec.CorruptRecordError, match="pool a/b"):
        codec.decode_document(text, "document of pool a/b")
    assert codec.decode_document(None, "") is None
