"""`python -m roost_gateway --config FILE`"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
# gRPC reads this when it is imported. Without its event engine, the thread that waits for events also reads and writes
# the sockets: fewer switches between threads for each message, a sixth of the gateway's CPU (tests/benchmarks/LOG.md).

from roost_gateway.config import ConfigError, GatewayConfig, load_config
from roost_gateway.front.server import GatewayServer

STORE_SECONDS = 2.0
"""How long the start waits for the store before it prints `listening on`. Until then calls are UNAVAILABLE."""


async def serve(config: GatewayConfig) -> None:
    """Serves until SIGTERM or SIGINT. Prints `listening on ADDRESS` once it answers calls, then `HTTP on ADDRESS` if
    it serves HTTP."""
    server = GatewayServer(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await server.start()
        await asyncio.wait([asyncio.create_task(server.opened.wait())], timeout=STORE_SECONDS)
        gc.freeze()  # imported modules stay for good: the collector need not traverse them while streams wait
        print(f"listening on {server.address}", flush=True)
        if server.http_address:
            print(f"HTTP on {server.http_address}", flush=True)
        if server.metrics_port is not None:
            logging.getLogger(__name__).info("metrics on port %d", server.metrics_port)
        ends = [asyncio.create_task(server.wait()), asyncio.create_task(stop.wait())]
        done, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()
    finally:
        await server.stop()


def main() -> int:
    """Returns the exit status: 2 when the configuration cannot be served."""
    parser = argparse.ArgumentParser(prog="python -m roost_gateway", description="Serve Roost's SessionService.")
    parser.add_argument("--config", type=Path, required=True, help="YAML or JSON file, see roost_gateway.config")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = load_config(arguments.config)
        _run(config)
    except ConfigError as error:
        print(f"roost_gateway: {error}", file=sys.stderr)
        return 2
    return 0


def _run(config: GatewayConfig) -> None:
    if sys.platform == "win32":
        asyncio.run(serve(config))
    else:
        import uvloop

        uvloop.run(serve(config))


if __name__ == "__main__":
    sys.exit(main())
