"""`python -m roost_gateway.probe HOST:PORT`: checks that every gateway behind a name answers; for `helm test`."""

import argparse
import asyncio
import socket
import sys

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from roost.addresses import NO_PROXY, join_address
from roost_gateway.config import ConfigError, split_address

CALL_SECONDS = 5.0


async def probe(host: str, port: int) -> dict[str, str]:
    """The health of the gateway at each address (NOT_SERVING without Redis or a worker), or the call's error.

    Raises OSError when the name has no address.
    """
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = sorted({str(entry[4][0]) for entry in entries})
    return {address: await _health(join_address(address, port)) for address in addresses}


async def _health(target: str) -> str:
    async with grpc.aio.insecure_channel(target, options=[NO_PROXY]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)  # type: ignore[attr-defined]
        except grpc.aio.AioRpcError as error:
            return f"error {error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


def main() -> int:
    """Returns the exit status: 1 when a gateway does not answer, 2 when the name has no address."""
    parser = argparse.ArgumentParser(prog="python -m roost_gateway.probe", description=__doc__)
    parser.add_argument("address", help="host:port; the host may have several addresses")
    try:
        answers = asyncio.run(probe(*split_address(parser.parse_args().address)))
    except (ConfigError, OSError) as error:
        print(f"roost_gateway.probe: {error}", file=sys.stderr)
        return 2
    for address, answer in answers.items():
        print(f"{address}: {answer}")
    return 1 if any(answer.startswith("error") for answer in answers.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
