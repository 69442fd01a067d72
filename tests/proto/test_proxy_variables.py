"""Proxy variables of the environment hold for gateways elsewhere, and not for those nearby."""

import asyncio

import pytest

from roost import Client, errors
from roost.addresses import is_internal
from roost.testing import FakeGateway

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")


@pytest.mark.parametrize("variable", VARIABLES)
async def test_a_gateway_on_this_machine_is_reached_without_the_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with FakeGateway() as fake, await Client.connect(fake.targets, connect_timeout=60.0) as client:
        assert (await client.open()).id.startswith("default/fake/")


@pytest.mark.parametrize("variable", VARIABLES)
async def test_a_gateway_elsewhere_is_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    requests: asyncio.Queue[bytes] = asyncio.Queue()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.put_nowait(await reader.readline())
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        with pytest.raises(errors.UnavailableError):
            await Client.connect("gateway.example.org:7070", connect_timeout=10.0)
        assert (await requests.get()).startswith(b"CONNECT gateway.example.org:7070 ")


@pytest.mark.parametrize(
    "target",
    [
        "localhost:7433",
        "127.0.0.1:7433",
        "127.8.0.1",
        "[::1]:7433",
        "::1",
        "0.0.0.0:7433",
        "[::]:7433",
        "ipv4:127.0.0.1:1,127.0.0.1:2",
        "ipv6:[::1]:7433",
        "roost-gateway:7070",
        "dns:///roost-gateway.roost-system.svc:7070",
        "dns:roost-gateway.roost-system.svc.cluster.local.:7070",
        "dns://10.96.0.10/Roost-Gateway.roost-system.SVC:7070",
    ],
)
def test_targets_within_a_machine_or_cluster_are_internal(target: str) -> None:
    assert is_internal(target)


@pytest.mark.parametrize(
    "target",
    [
        "gateway.example.org:7070",
        "dns:///gateway.example.org:7070",
        "localhost.example.org:7433",
        "gateway.svc.example.org:7070",
        "10.0.0.7:7070",
        "[2001:db8::1]:7070",
        "ipv4:127.0.0.1:1,10.0.0.7:2",
    ],
)
def test_all_other_targets_are_not(target: str) -> None:
    assert not is_internal(target)
