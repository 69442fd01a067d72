"""A lease is read as it was written, by versions that differ."""

import json
from dataclasses import asdict, replace

import pytest

from roost.contract.lease import WorkerLease

LEASE = WorkerLease(
    worker_id="w-1",
    boot="b",
    address="127.0.0.1:1",
    model="m",
    model_revision="r",
    capacity_tokens=2048,
    max_running=8,
    draining=True,
    limits=("thinking-kept", "tools"),
)


def test_a_lease_is_read_as_it_was_written() -> None:
    assert WorkerLease.decode(LEASE.encode()) == WorkerLease.decode(LEASE.encode().encode()) == LEASE


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1:8471", "127.0.0.1"), ("[fd00::7]:8471", "fd00::7"), ("node:1", "node")]
)
def test_a_host_is_written_as_kubernetes_writes_that_of_a_pod(address: str, host: str) -> None:
    assert replace(LEASE, address=address).host == host


def test_fields_of_a_newer_version_are_passed_over_and_those_that_an_older_one_lacks_have_defaults() -> None:
    document = {**asdict(LEASE), "novelty": 1}
    del document["decode_rate"]
    assert WorkerLease.decode(json.dumps(document)) == LEASE


@pytest.mark.parametrize("text", ["{}", '{"worker_id": "w"}', "null", "[1]", '"lease"', "3", "", "{", b"\xff"])
def test_what_is_no_lease_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  json says what is wrong with the text
        WorkerLease.decode(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("address", 1), ("capacity_tokens", "2048"), ("running", 1.5), ("running", True), ("draining", 0)),
        *(("boot", None), ("boot", ["b"]), ("limits", "thinking-kept"), ("limits", [1]), ("limits", {})),
    ],
)
def test_a_field_of_another_type_is_a_value_error(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        WorkerLease.decode(json.dumps({**asdict(LEASE), field: value}))
    assert WorkerLease.decode(json.dumps({**asdict(LEASE), "prefill_rate": 3})).prefill_rate == 3


def test_a_lease_has_the_fields_that_older_gateways_require() -> None:
    required = {"worker_id", "boot", "address", "model", "model_revision", "capacity_tokens", "max_running"}
    retired = {"render_version": str, "block_tokens": int, "context_tokens": int}
    document = json.loads(LEASE.encode())
    assert required | set(retired) <= set(document)
    assert all(type(document[name]) is kind for name, kind in retired.items())
