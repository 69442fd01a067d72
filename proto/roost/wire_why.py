"""Why a step took its time: between the contract's values and `roost.v1` messages. Pure."""

from roost.contract import why as contract
from roost.v1 import session_service_pb2 as pb
from roost.wire import enum_member, enum_value


def why_to_wire(why: contract.Why) -> pb.StepWhy:
    return pb.StepWhy(
        wait=None if why.wait is None else _wait_to_wire(why.wait),
        worker=why.worker,
        place=enum_value(pb.StepPlace, "STEP_PLACE", why.place),
        log_tokens=why.log_tokens,
        cached_tokens=why.cached_tokens,
        rebuilt_tokens=why.rebuilt_tokens,
        cause=enum_value(pb.RebuildCause, "REBUILD_CAUSE", why.cause),
        eviction=None if why.eviction is None else eviction_to_wire(why.eviction),
        ahead_tokens=why.ahead_tokens,
    )


def why_from_wire(wire: pb.StepWhy) -> contract.Why:
    """Places, causes and reasons that this version does not know become None."""
    return contract.Why(
        wait=_wait_from_wire(wire.wait) if wire.HasField("wait") else None,
        worker=wire.worker,
        place=enum_member(contract.Place, pb.StepPlace, "STEP_PLACE", wire.place),
        log_tokens=wire.log_tokens,
        cached_tokens=wire.cached_tokens,
        rebuilt_tokens=wire.rebuilt_tokens,
        cause=enum_member(contract.RebuildCause, pb.RebuildCause, "REBUILD_CAUSE", wire.cause),
        eviction=eviction_from_wire(wire.eviction) if wire.HasField("eviction") else None,
        ahead_tokens=wire.ahead_tokens,
    )


def eviction_to_wire(eviction: contract.KvEviction) -> pb.KvEviction:
    return pb.KvEviction(
        tokens=eviction.tokens,
        milliseconds_ago=round(eviction.seconds_ago * 1000),
        for_session=eviction.for_session,
        policy=eviction.policy,
        requested=eviction.requested,
        rebuild_seconds=eviction.rebuild_seconds,
    )


def eviction_from_wire(wire: pb.KvEviction) -> contract.KvEviction:
    return contract.KvEviction(
        wire.tokens,
        wire.milliseconds_ago / 1000,
        wire.for_session,
        wire.policy,
        wire.requested,
        wire.rebuild_seconds,
    )


def _wait_to_wire(wait: contract.Wait) -> pb.StepWait:
    return pb.StepWait(
        milliseconds=round(wait.seconds * 1000),
        continuations=wait.continuations,
        new_sessions=wait.new_sessions,
        reason=enum_value(pb.WaitReason, "WAIT_REASON", wait.reason),
    )


def _wait_from_wire(wire: pb.StepWait) -> contract.Wait:
    reason = enum_member(contract.WaitReason, pb.WaitReason, "WAIT_REASON", wire.reason)
    return contract.Wait(wire.milliseconds / 1000, wire.continuations, wire.new_sessions, reason)
