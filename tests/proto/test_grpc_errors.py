"""A rich status survives the wire with its reason, retry hint and violations."""

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from roost.contract.reasons import DOMAIN, STATUSES, Reason
from roost.contract.refused import Refused
from roost.grpc_errors import Details, abort, code_of, details_of, rich_status
from roost.v1 import worker_service_pb2 as pb
from roost.v1 import worker_service_pb2_grpc as pb_grpc


class _Refusing(pb_grpc.WorkerServiceServicer):
    async def GetState(self, request, context):  # noqa: N802  gRPC's name
        await abort(
            context,
            Refused(
                Reason.WORKER_DRAINING,
                "the worker drains",
                retry_seconds=1.5,
                metadata={"worker": "w-1"},
                violations=[("field", "wrong")],
            ),
        )


async def _refusal() -> grpc.aio.AioRpcError:
    server = grpc.aio.server()
    pb_grpc.add_WorkerServiceServicer_to_server(_Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await pb_grpc.WorkerServiceStub(channel).GetState(pb.GetStateRequest())
            return caught.value
    finally:
        await server.stop(None)


def _detail(status: status_pb2.Status, kind):
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            value = kind()
            packed.Unpack(value)
            return value
    raise AssertionError(f"no {kind} in {status}")


async def test_the_client_reads_reason_retry_and_violations():
    error = await _refusal()
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the worker drains")
    status = rpc_status.from_call(error)
    info = _detail(status, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("WORKER_DRAINING", DOMAIN, {"worker": "w-1"})
    assert _detail(status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 1500
    violation = _detail(status, error_details_pb2.BadRequest).field_violations[0]
    assert (violation.field, violation.description) == ("field", "wrong")


async def test_what_was_refused_is_read_back() -> None:
    assert details_of(await _refusal()) == Details(
        reason=Reason.WORKER_DRAINING,
        retry_seconds=1.5,
        violations=(("field", "wrong"),),
        metadata={"worker": "w-1"},
    )


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
def test_a_status_of_others_has_no_reason(code: grpc.StatusCode) -> None:
    """One that gRPC made itself, one of another domain, and one whose details are of another code than its own."""
    plain = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "Socket closed")
    assert details_of(plain) == Details()
    rich = rich_status(Refused(Reason.NO_WORKER, "none", retry_seconds=2.0))
    (key, value), *_ = rich.trailing_metadata or ()
    foreign = grpc.aio.Metadata((key, value.replace(DOMAIN.encode(), b"other.dev")))
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), foreign, "none")
    agrees = code is code_of(Reason.NO_WORKER)
    assert details_of(error) == (Details(retry_seconds=2.0) if agrees else Details())


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_one_status(reason: Reason) -> None:
    assert code_of(reason).name == STATUSES[reason].grpc
    assert 400 <= STATUSES[reason].http < 600


def test_http_invites_a_retry_exactly_where_one_can_help() -> None:
    """Clients of HTTP resend after 409, 429, 502 to 504 by themselves."""
    resent = {reason for reason, status in STATUSES.items() if status.http in (409, 429, 502, 503, 504)}
    passing = ("ABORTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
    assert resent == {reason for reason, status in STATUSES.items() if status.grpc in passing}
