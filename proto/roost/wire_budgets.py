"""Extensions of budgets between the contract's values and protobuf."""

from roost.contract.budgets import BudgetExtension, BudgetScope
from roost.v1 import session_service_pb2 as pb
from roost.wire import enum_member, enum_value


def extension_to_wire(extension: BudgetExtension) -> pb.ExtendBudgetRequest:
    return pb.ExtendBudgetRequest(
        session_id=extension.session_id,
        scope=enum_value(pb.BudgetScope, "BUDGET_SCOPE", extension.scope),
        tokens=extension.tokens,
        gpu_seconds=extension.gpu_seconds,
        steps=extension.steps,
        wall_seconds=extension.wall_seconds,
        request_id=extension.request_id,
    )


def extension_from_wire(wire: pb.ExtendBudgetRequest) -> BudgetExtension:
    is_given = wire.scope != pb.BUDGET_SCOPE_UNSPECIFIED
    scope = enum_member(BudgetScope, pb.BudgetScope, "BUDGET_SCOPE", wire.scope) if is_given else BudgetScope.SESSION
    return BudgetExtension(
        session_id=wire.session_id,
        scope=scope,
        tokens=wire.tokens,
        gpu_seconds=wire.gpu_seconds,
        steps=wire.steps,
        wall_seconds=wire.wall_seconds,
        request_id=wire.request_id,
    )
