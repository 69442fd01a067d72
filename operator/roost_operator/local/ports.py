"""TCP ports of this machine."""

import socket


class PortTakenError(RuntimeError):
    """A requested port is in use. The text names the port and the flag."""


def free_port(host: str) -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_free(host: str, port: int, use: str, flag: str) -> None:
    """Raises PortTakenError when `port`, wanted for `use`, is taken; `flag` says how to give another one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTakenError(
                f"port {port} on {host} for {use} cannot be used ({error.strerror}); {flag}"
            ) from error
