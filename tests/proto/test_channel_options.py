"""gRPC passes over an option that it does not know, so a misspelt one does nothing and nobody is told."""

import re
from pathlib import Path

import pytest
from grpc._cython import cygrpc

ROOT = Path(__file__).parents[2]
OPTION = re.compile(r"\"(grpc\.[a-z0-9_.]+)\"")
FOUND = sorted(
    {
        (str(path.relative_to(ROOT)), option)
        for package in ("proto", "gateway", "worker", "operator")
        for path in (ROOT / package).rglob("*.py")
        for option in OPTION.findall(path.read_text())
    }
)


@pytest.fixture(scope="module")
def library() -> bytes:
    """gRPC's core, in which the names of its options stand."""
    return Path(cygrpc.__file__).read_bytes()


@pytest.mark.parametrize(("path", "option"), FOUND)
def test_every_option_is_one_that_grpc_knows(library: bytes, path: str, option: str) -> None:
    assert option.encode() + b"\0" in library, path


def test_an_option_that_grpc_does_not_know_would_be_found(library: bytes) -> None:
    assert b"grpc.http2.min_recv_ping_interval_without_data_ms" not in library
