"""Asks a gRPC server for its health."""

from roost.addresses import NO_PROXY


async def health(target: str) -> bool | None:
    """Whether the gateway or worker at `target` serves: False while it is not ready, None when it does not answer."""
    # Here, because gRPC takes a while to import, in which the processes that are asked start.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(target, options=[NO_PROXY]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)  # type: ignore[attr-defined]
        except grpc.aio.AioRpcError:
            return None
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
