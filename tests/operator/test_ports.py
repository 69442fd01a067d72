"""Ports of this machine, over IPv4 and IPv6."""

import socket

import pytest

from roost_operator.local import ports
from roost_operator.local.ports import PortTakenError, free_port, require_free


@pytest.mark.parametrize(("taken", "hosts"), [("127.0.0.1", ("127.0.0.1", "localhost", "::")), ("::1", ("::1", "::"))])
def test_a_port_is_free_when_it_is_so_on_every_address_of_the_host(taken: str, hosts: tuple[str, ...]) -> None:
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.create_server((taken, 0), family=family) as server:
        port = server.getsockname()[1]
        for host in hosts:
            with pytest.raises(PortTakenError, match=f"port {port} on {host} "):
                require_free(host, port, "gateway 1", "give another one with --port")


def test_a_port_that_the_system_offers_twice_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = iter((70_001, 70_001, 70_002))
    monkeypatch.setattr(ports, "_bind", lambda host, port: next(offers))
    assert [free_port("127.0.0.1"), free_port("127.0.0.1")] == [70_001, 70_002]


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(PortTakenError, match=r"192\.0\.2\.1.*--host"):
        free_port("192.0.2.1")
    with pytest.raises(PortTakenError, match="Cannot assign"):
        require_free("192.0.2.1", 7433, "gateway 1", "give another one with --port")
