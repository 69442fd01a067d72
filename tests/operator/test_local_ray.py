"""A local stack whose workers are Ray Serve replicas: they serve, are replaced, and listen on loopback only."""

import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import pytest_asyncio

from roost import Client, RetryConfig, Sampling
from roost_operator.api.loader import load_pool
from roost_operator.demo.chaos import listener as process_listening_at
from roost_operator.local.processes import STACK_VARIABLE
from roost_operator.local.runner import LocalStack, StackOptions
from stack_leftovers import left_behind

pytestmark = [pytest.mark.ray, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(560)]
SAMPLE = Path(__file__).parents[2] / "manifests" / "samples" / "pool-dummy.yaml"


class Listener(NamedTuple):
    """A socket that others may reach, unless its address is a loopback one."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    command: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    """The sample's pool; afterwards nothing of it may be left."""
    folder = tmp_path_factory.mktemp("ray")
    options = StackOptions(state_dir=folder / "state", port=0, cache_dir=folder / "cache")
    async with LocalStack(load_pool(SAMPLE), options) as stack:
        yield stack
    assert left_behind(folder) == []


async def test_a_session_survives_the_death_of_its_replica(stack: LocalStack) -> None:
    retry = RetryConfig(give_up_after=240.0)  # Ray takes minutes to start a replica on a busy machine
    async with await Client.connect(stack.targets, retry=retry) as client:
        session = await client.open(role="agent")
        greedy = Sampling(temperature=0.0, max_tokens=8)
        await session.run("One.", sampling=greedy)
        (lease,) = await stack.leases()
        pid = process_listening_at(lease.address)
        assert pid is not None
        replica = psutil.Process(pid)
        assert replica.nice() == psutil.Process().nice(), "it would starve beside whatever else computes"
        replica.kill()
        again = await session.run("Two.", sampling=greedy)
        assert again.committed.index == 1


async def test_nothing_can_be_reached_from_outside(stack: LocalStack) -> None:
    listeners = [each for process in processes_of_this_stack() for each in listening_sockets(process)]
    ports = {each.port for each in listeners}
    assert {int(target.rpartition(":")[2]) for target in stack.targets} <= ports
    assert any("raylet" in each.command for each in listeners)
    assert [each for each in listeners if not each.address.is_loopback] == []


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
