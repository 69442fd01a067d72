"""The contract's values survive the way over the wire, and what no value may have is kept for the checks."""

from datetime import UTC, datetime

import pytest

from roost import wire, wire_steps
from roost.contract import requests
from roost.contract.budgets import BudgetScope, BudgetStatus, BudgetUnit
from roost.contract.events import (
    ArgumentsPart,
    CallPart,
    Committed,
    Delta,
    Event,
    FinishReason,
    Migrated,
    Queued,
    ReasoningPart,
    Restarted,
    Started,
    TextPart,
    TokenLogprobs,
    Usage,
)
from roost.contract.heads import AttemptRef, Head
from roost.contract.messages import JsonSchema, Message, MessageRole, Sampling, ToolCall, ToolChoice, ToolChoiceMode
from roost.contract.sessions import (
    ForkPoint,
    ForkRequest,
    Hold,
    LoggedStep,
    OpenRequest,
    SessionInfo,
    SessionState,
    SessionTool,
    Tier,
)
from roost.contract.steps import Cursor, Deltas, StepRequest
from roost.contract.why import KvEviction, Place, RebuildCause, Wait, WaitReason, Why
from roost.v1 import session_service_pb2 as pb

HEAD = Head(7, b"h" * 16, 2)
ATTEMPT = AttemptRef(3, b"n" * 16)
ASKED = Message(MessageRole.USER, "é", name="n")
SAID = Message(MessageRole.ASSISTANT, "", (ToolCall("call-0", "grep", "{}"),))
SAMPLING = Sampling(temperature=0.5, top_k=0, seed=2**63, stop=("x",), stop_token_ids=(1,), logit_bias={5: 1.5})
USAGE = Usage(1, 2, 3, 4)
NOON = datetime(2026, 1, 2, 12, 0, 0, 5000, tzinfo=UTC)

PARTS = (ReasoningPart("Hm."), TextPart("é"), CallPart(1, "call_1", "grep"), ArgumentsPart(1, '{"q"'))

WHY = Why(
    Wait(1.25, 3, 1, WaitReason.LINE),
    "worker",
    Place.HOME,
    20480,
    16383,
    4096,
    RebuildCause.EVICTED_FOR_ROOM,
    KvEviction(4096, 41.5, "a/b/c", "LRUSparingHeld", rebuild_seconds=0.5),
    ahead_tokens=512,
)

BUDGETS = (
    BudgetStatus(BudgetScope.TASK, BudgetUnit.GPU_SECONDS, 1.5, 60),
    BudgetStatus(BudgetScope.SESSION, BudgetUnit.STEPS, 4, 5),
)
EVENTS: list[Event] = [
    Queued(4),
    Queued(2, WaitReason.WORKING_SET, True, 3.5, 2_100_000, 1_900_000),
    Queued(0, WaitReason.NO_WORKER),
    Migrated("old", "new", 2, HEAD),
    Started("worker", 5, 6, ATTEMPT),
    Started("worker", 5, 6, ATTEMPT, WHY),
    Delta("é", [7, 8], 1, 2, (TokenLogprobs(-0.5, (7,), (-0.25,)),), ATTEMPT, PARTS, 5),
    Restarted("why", ATTEMPT),
    Committed(
        "s1",
        SAID,
        FinishReason.TOOL_CALLS,
        USAGE,
        HEAD,
        1,
        2,
        3,
        2**63,
        True,
        4,
        5,
        ("why",),
        "Hm.",
        "stop",
        WHY,
        6,
        BUDGETS,
    ),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_arrive_as_they_were_sent(event: Event) -> None:
    arrived = wire_steps.event_from_wire("s1", wire_steps.event_to_wire(event))
    assert arrived == event
    assert getattr(arrived, "attempt", None) == getattr(event, "attempt", None)  # events are equal whatever the attempt


def test_an_event_of_a_newer_gateway_is_passed_over() -> None:
    assert wire_steps.event_from_wire("s1", pb.StepResponse()) is None


@pytest.mark.parametrize(
    "request_",
    [
        StepRequest("a/b/c", "s1", (ASKED,)),
        StepRequest("a/b/c", "s1", (ASKED, SAID), SAMPLING, JsonSchema("{}"), HEAD, Cursor(ATTEMPT, 1, 2, 3)),
        StepRequest("a/b/c", "s1", (), format=ToolChoice(ToolChoiceMode.REQUIRED, "grep"), expected_head=Head()),
        *(StepRequest("a/b/c", "s1", (ASKED,), deltas=deltas) for deltas in Deltas),
    ],
)
def test_step_requests_arrive_as_they_were_sent(request_: StepRequest) -> None:
    assert wire_steps.step_request_from_wire(wire_steps.step_request_to_wire(request_)) == request_


@pytest.mark.parametrize("hold", [None, Hold("grep", 3.0, NOON)])
@pytest.mark.parametrize("budget", [None, 0])
def test_sessions_arrive_as_they_were_sent(hold: Hold | None, budget: int | None) -> None:
    info = SessionInfo(
        *("a/b/c", "a/b", "coder", "task", "parent", "model", "rev", 2, HEAD),
        state=SessionState.ACTIVE,
        tier=Tier.WARM,
        worker="w",
        cached_tokens=5,
        hold=hold,
        steps=6,
        usage=USAGE,
        budget_remaining_tokens=budget,
        running_step_id="s1",
        create_time=NOON,
        update_time=NOON,
        expire_time=None,
        labels={"a": "b"},
        tools=(SessionTool("a"), SessionTool("b", True), SessionTool("c", False, "/properties/x/pattern")),
        forked_from=None if hold is None else ForkPoint("a/b/d", HEAD),
    )
    assert wire.session_from_wire(wire.session_to_wire(info)) == info


def test_a_fork_without_a_head_is_not_one_of_the_empty_log() -> None:
    assert wire.fork_request_from_wire(pb.ForkSessionRequest(session_id="a/b/c")) == ForkRequest("a/b/c")
    sent = pb.ForkSessionRequest(session_id="a/b/c", at=pb.Head(), request_id="r", task="t", labels={"a": "b"})
    assert wire.fork_request_from_wire(sent) == ForkRequest("a/b/c", Head(), "r", "t", {"a": "b"})


def test_logged_steps_arrive_as_they_were_sent() -> None:
    step = LoggedStep(
        *(
            "s1",
            3,
            (ASKED,),
            SAID,
            FinishReason.STOP,
            USAGE,
            HEAD,
            SAMPLING,
            JsonSchema("{}"),
            (1, 2),
            (3,),
            NOON,
            "Hm.",
            WHY,
            2,
        )
    )
    assert wire_steps.logged_step_from_wire(wire_steps.logged_step_to_wire(step)) == step


def test_a_tools_schema_stays_the_text_that_was_sent() -> None:
    sent = pb.OpenSessionRequest(tools=[pb.Tool(name="grep", parameters_json='{ "b": 1,\n"a": 2 }')])
    assert wire.open_request_from_wire(sent).tools[0].parameters_json == '{ "b": 1,\n"a": 2 }'


def test_what_no_value_may_have_is_left_to_the_checks() -> None:
    opened = wire.open_request_from_wire(pb.OpenSessionRequest(tools=[pb.Tool(name="a b")]))
    assert isinstance(opened, OpenRequest)
    assert dict(requests.open_session(opened)) == {"tools[0].name": "'a b' must match [A-Za-z0-9_.-]{1,128}"}
    step = wire_steps.step_request_from_wire(
        pb.StepRequest(
            step_id="s1",
            messages=[pb.Message(role=99)],  # type: ignore[arg-type]  # a role of a newer client
            sampling=pb.Sampling(top_p=0),
            format=pb.Format(tool_choice=pb.ToolChoice(name="grep")),
        )
    )
    assert list(dict(requests.step(step))) == ["messages[0].role", "sampling.top_p", "format.tool_choice.name"]


def test_a_filter_by_a_state_that_is_unknown_selects_no_session() -> None:
    query = wire.session_query_from_wire(pb.ListSessionsRequest(tier=pb.TIER_HOT, state=99))  # type: ignore[arg-type]
    assert query.tier == Tier.HOT
    assert query.state not in ("", *SessionState)
    assert wire.session_query_from_wire(pb.ListSessionsRequest()).state == ""


def test_a_budget_of_a_newer_gateways_kind_is_passed_over() -> None:
    known, newer = wire.budgets_to_wire(BUDGETS), pb.BudgetStatus(scope=77, unit=pb.BUDGET_UNIT_STEPS)
    assert wire.budgets_from_wire([*known, newer]) == BUDGETS
