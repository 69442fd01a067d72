"""The gateways of a local pool: one supervised process each, on fixed ports."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from roost_operator.local.health import health
from roost_operator.local.processes import Command
from roost_operator.local.state_dir import StateDirectory

READY_SECONDS = 60.0
DRAIN_SECONDS = 5.0
"""How long a running step may go on when the stack stops; its worker keeps its output."""


@dataclass(frozen=True, slots=True)
class GatewayAddresses:
    """Where a gateway listens, as host:port."""

    grpc: str
    http: str


def gateway_command(
    state: StateDirectory,
    number: int,
    addresses: GatewayAddresses,
    pool: str,
    pool_secret: str,
    store_url: str,
    keys: Path | None,
) -> Command:
    """How to run gateway `number` (from 1), with or without a file of API `keys`. It is ready when it answers gRPC,
    even if it does not serve yet."""
    document = {
        "gateway_id": f"gateway-{number}",
        "listen": addresses.grpc,
        "http_listen": addresses.http,
        "store_url": store_url,
        "pools": [pool],
        "pool_secrets": {pool: pool_secret},
        "api_keys_file": str(keys.resolve()) if keys else None,
        "drain_seconds": DRAIN_SECONDS,
    }
    file = state.write_private(f"gateway-{number}.json", json.dumps(document))

    async def ready() -> bool:
        return await health(addresses.grpc) is not None

    return Command(
        name=f"gateway-{number}",
        argv=(sys.executable, "-m", "roost_gateway", "--config", str(file)),
        log=state.file("logs", f"gateway-{number}.log"),
        ready=ready,
        ready_seconds=READY_SECONDS,
        stop_seconds=DRAIN_SECONDS + 5.0,
    )
