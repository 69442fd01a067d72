"""TCP ports of this machine."""

import contextlib
import errno
import socket


class PortTakenError(RuntimeError):
    """A requested port cannot be used. The text names the port and the flag."""


_given: set[int] = set()
"""The system may offer a port again that nobody has taken yet."""


def free_port(host: str) -> int:
    """A port that is free now, another one at each call. Raises PortTakenError when `host` is not an address of this
    machine."""
    try:
        while (port := _bind(host, 0)) in _given:
            pass
        _given.add(port)
        return port
    except OSError as error:
        raise PortTakenError(
            f"no port on {host} can be used ({error.strerror}); give an address of this machine with --host"
        ) from error


def require_free(host: str, port: int, use: str, flag: str) -> None:
    """Raises PortTakenError when `port`, wanted for `use`, is taken; `flag` says how to give another one."""
    try:
        _bind(host, port)
    except OSError as error:
        raise PortTakenError(f"port {port} on {host} for {use} cannot be used ({error.strerror}); {flag}") from error


def _bind(host: str, port: int) -> int:
    """Bind `port`, 0 for any, on every address of `host` for a moment. Returns the port. Raises OSError."""
    bound, failure = 0, OSError(errno.EADDRNOTAVAIL, "no such address")
    with contextlib.ExitStack() as sockets:
        for family, _, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            try:
                probe = sockets.enter_context(socket.socket(family))
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address[0], bound or port, *address[2:]))
                bound = int(probe.getsockname()[1])
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                failure = error  # `localhost` may name ::1 on a machine without IPv6; gRPC leaves it out, too
    if not bound:
        raise failure
    return bound
