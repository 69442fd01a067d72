"""How calls are refused."""

from collections.abc import Awaitable

import grpc.aio
import pytest

from roost.contract.refused import Refused


async def refused(call: Awaitable[object]) -> Refused:
    """The refusal by which a call within the process ends."""
    with pytest.raises(Refused) as error:
        await call
    return error.value


async def refused_rpc(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """The error with which a call over gRPC ends."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value
