"""Every reason has one class, every status a fallback, and details survive the wire."""

import inspect

import grpc
import pytest

from roost import Head, errors
from roost._faults import from_rpc_error
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.grpc_errors import code_of, rich_status

CLASSES = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}


def failure(status: grpc.Status) -> grpc.aio.AioRpcError:
    """What a call raises for `status`."""
    trailing = grpc.aio.Metadata(*(status.trailing_metadata or ()))
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, status.details)


def plain(code: grpc.StatusCode, details: str = "") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def test_every_reason_maps_to_exactly_one_class() -> None:
    assert set(errors.REASONS) == set(Reason)
    assert all(kind in CLASSES.values() and kind is not errors.RoostError for kind in errors.REASONS.values())


def test_every_class_but_the_sdks_own_is_raised_for_something() -> None:
    raised = {kind for leaf in [*errors.REASONS.values(), *errors.STATUSES.values()] for kind in leaf.__mro__}
    assert set(CLASSES.values()) - raised == {errors.StreamError}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = [
        line.strip("│├└─ ").split()[0] for line in errors.__doc__.splitlines() if "Error" in line and line[:4] == "    "
    ]
    assert sorted(drawn) == sorted(CLASSES)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_comes_back_as_its_class(reason: Reason) -> None:
    status = rich_status(Refused(reason, "told", retry_seconds=1.5, metadata={"k": "v"}))
    error = from_rpc_error(failure(status))
    assert type(error) is errors.REASONS[reason]
    assert (error.status, error.reason, error.retry_after) == (code_of(reason), reason, 1.5)
    assert (error.message, error.metadata, str(error)) == ("told", {"k": "v"}, f"told ({reason})")


@pytest.mark.parametrize("reason", Reason)
def test_the_class_of_a_reason_fits_its_status(reason: Reason) -> None:
    assert issubclass(errors.REASONS[reason], errors.STATUSES.get(code_of(reason), errors.InternalError))


def test_a_reason_of_a_newer_gateway_falls_back_to_its_status() -> None:
    status = rich_status(Refused(Reason.POOL_NOT_FOUND, "told"))
    trailing = [
        (key, value.replace(b"POOL_NOT_FOUND", b"LATEST_NOVELTY")) for key, value in status.trailing_metadata or ()
    ]
    error = from_rpc_error(
        grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), status.details)
    )
    assert type(error) is errors.NotFoundError
    assert error.reason == "LATEST_NOVELTY"


@pytest.mark.parametrize(
    ("detail", "message"),
    [
        ("bad", "bad; top_p: is 2"),
        ("is 2", "top_p: is 2"),
        ("invalid request: top_p: is 2", "invalid request: top_p: is 2"),
    ],
)
def test_violations_are_part_of_the_message_once(detail: str, message: str) -> None:
    status = rich_status(Refused(Reason.INVALID_REQUEST, detail, violations=[("top_p", "is 2")]))
    assert from_rpc_error(failure(status)).message == message


def test_what_grpc_says_by_itself_is_explained() -> None:
    large = from_rpc_error(plain(grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (9 vs. 8)"))
    assert (
        large.message == "the request is too large: send less at once (CLIENT: Sent message larger than max (9 vs. 8))"
    )
    late = from_rpc_error(plain(grpc.StatusCode.DEADLINE_EXCEEDED, "Stream removed (Deadline Exceeded)"))
    assert late.message.startswith("the deadline passed before the call ended")


def test_a_rolled_back_head_is_read() -> None:
    metadata = {"head_length": "3", "head_log_hash": "00ff"}
    status = rich_status(Refused(Reason.SESSION_ROLLED_BACK, "lost", metadata=metadata))
    error = from_rpc_error(failure(status))
    assert isinstance(error, errors.SessionRolledBackError)
    assert error.actual == Head(3, b"\x00\xff")


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", errors.UnavailableError),
        (grpc.StatusCode.CANCELLED, "", errors.UnavailableError),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", errors.UnavailableError),
        (grpc.StatusCode.UNKNOWN, "Stream removed", errors.UnavailableError),
        (grpc.StatusCode.INTERNAL, "Exception deserializing response!", errors.InternalError),
        (grpc.StatusCode.UNIMPLEMENTED, "no such method", errors.InternalError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max", errors.MessageTooLargeError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "elsewhere", errors.OverloadedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", errors.DeadlineExceededError),
    ],
)
def test_a_status_that_no_gateway_explained(code: grpc.StatusCode, details: str, kind: type[Exception]) -> None:
    error = from_rpc_error(plain(code, details))
    assert type(error) is kind
    assert (error.reason, error.status) == ("", code)
