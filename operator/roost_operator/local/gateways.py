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
class GatewayPlan:
    """Settings that all gateways of the stack share."""

    pool: str
    store_url: str
    pool_secret: str
    host: str
    key_file: Path | None = None


def gateway_command(state: StateDirectory, number: int, port: int, plan: GatewayPlan) -> Command:
    """How to run gateway `number` (from 1). It counts as ready when it answers, even if it does not serve yet."""
    document = {
        "gateway_id": f"gateway-{number}",
        "listen": f"{plan.host}:{port}",
        "store_url": plan.store_url,
        "pools": [plan.pool],
        "pool_secrets": {plan.pool: plan.pool_secret},
        "api_keys_file": str(plan.key_file.resolve()) if plan.key_file else None,
        "drain_seconds": DRAIN_SECONDS,
    }
    file = state.write_private(f"gateway-{number}.json", json.dumps(document))

    async def ready() -> bool:
        return await health(f"{plan.host}:{port}") is not None

    return Command(
        name=f"gateway-{number}",
        argv=(sys.executable, "-m", "roost_gateway", "--config", str(file)),
        log=state.file("logs", f"gateway-{number}.log"),
        ready=ready,
        ready_seconds=READY_SECONDS,
        stop_seconds=DRAIN_SECONDS + 5.0,
    )
