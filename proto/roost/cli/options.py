"""Options that several commands share, and the client that they describe."""

from typing import Annotated

import typer

from roost.cli.output import OutputFormat
from roost.sync import SyncClient

DEFAULT_TARGET = "127.0.0.1:7433"
"""Where `roost up` puts its first gateway."""

Target = Annotated[
    str,
    typer.Option("--target", envvar="ROOST_TARGET", help="Address of a gateway, or several, separated by commas."),
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="ROOST_API_KEY", help="API key.", show_envvar=True, show_default=False)
]
Pool = Annotated[
    str | None,
    typer.Option(
        "--pool", envvar="ROOST_POOL", help="Pool, namespace/name; your only pool by default.", show_default=False
    ),
]
Output = Annotated[OutputFormat, typer.Option("--output", "-o", help="How to print.")]
SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="Session's name, namespace/pool/id.")]


def connect(target: str, api_key: str | None, pool: str | None = None) -> SyncClient:
    """Connects. Raises RoostError when no gateway answers within a few seconds."""
    addresses = [address.strip() for address in target.split(",") if address.strip()]
    return SyncClient.connect(addresses, api_key=api_key, pool=pool, connect_timeout=5.0)
