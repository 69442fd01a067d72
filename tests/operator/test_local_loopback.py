"""Everything that a local stack starts listens on loopback only."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from roost_operator.api.loader import load_pool
from roost_operator.local.processes import STACK_VARIABLE
from roost_operator.local.runner import LocalStack, StackOptions

SAMPLE = Path(__file__).parents[2] / "manifests" / "samples" / "pool-dummy.yaml"


class Listener(NamedTuple):
    """A socket that others may reach, unless its address is a loopback one."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    command: str


@pytest.mark.ray
async def test_nothing_of_a_stack_with_ray_can_be_reached_from_outside(tmp_path: Path) -> None:
    options = StackOptions(state_dir=tmp_path / "state", port=0, cache_dir=tmp_path / "cache")
    async with LocalStack(load_pool(SAMPLE), options) as stack:
        listening = [listener for process in processes_of_this_stack() for listener in listening_sockets(process)]
        ports = {listener.port for listener in listening}
        assert {int(target.rpartition(":")[2]) for target in stack.targets} <= ports
        assert any("raylet" in listener.command for listener in listening)
        assert [listener for listener in listening if not listener.address.is_loopback] == []


def processes_of_this_stack() -> list[psutil.Process]:
    """The descendants of this process and whatever else carries the running stack's mark."""
    mark = os.environ[STACK_VARIABLE]
    marked = [process for process in psutil.process_iter() if environment(process).get(STACK_VARIABLE) == mark]
    return list({*psutil.Process().children(recursive=True), *marked})


def environment(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error):
        return dict(process.environ())
    return {}


def listening_sockets(process: psutil.Process) -> Iterator[Listener]:
    """Its TCP sockets that listen and its UDP sockets that are bound."""
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        command = " ".join(process.cmdline())[:80]
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN or (connection.type == socket.SOCK_DGRAM and connection.laddr):
                address = ipaddress.ip_address(connection.laddr.ip)
                yield Listener(getattr(address, "ipv4_mapped", None) or address, connection.laddr.port, command)
