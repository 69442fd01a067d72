"""Asks a gRPC server for its health."""

import asyncio

from roost.addresses import NO_PROXY


async def health(target: str) -> bool | None:
    """Whether the gateway or worker at `target` serves: False while it is not ready, None when it does not answer."""
    if not await _listens(target):
        return None
    # Imported here, while the processes that are asked start: gRPC takes a while.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(target, options=[NO_PROXY]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)  # type: ignore[attr-defined]
        except grpc.aio.AioRpcError:
            return None
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


async def _listens(target: str) -> bool:
    """Whether something accepts connections there. To ask is cheaper by far than a channel of gRPC, and processes are
    asked often until they are up."""
    host, _, port = target.rpartition(":")
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
