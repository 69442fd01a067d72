"""TCP ports of this machine."""

import socket


class PortTakenError(RuntimeError):
    """A port that was asked for is in use. The text names the port and the flag."""


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_free(host: str, port: int, use: str, flag: str) -> None:
    """Raises PortTakenError when `port`, wanted for `use`, is in use; `flag` is how another one is given."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTakenError(
                f"port {port} on {host} for {use} cannot be used ({error.strerror}); {flag}"
            ) from error
