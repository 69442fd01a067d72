"""A step may bring messages that no session has: they reach the worker and the log as they came."""

from gateway_driver import step_request, world
from redis_servers import RedisServer
from roost.contract.messages import Message, MessageRole, ToolCall
from roost.contract.steps import StepRequest
from roost.v1 import session_service_pb2 as pb
from roost_gateway.admission.estimate import SessionFacts, prompt_tokens

FOREIGN = pb.ToolCall(name="not a tool of ours", arguments_json="{")
OWN = pb.ToolCall(id="1", name="grep", arguments_json="{}")
HISTORY = [
    pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, tool_calls=[FOREIGN]),
    pb.Message(role=pb.MESSAGE_ROLE_TOOL, content="4", tool_call_id="a call of another session"),
    pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, content="Let me look.", tool_calls=[OWN, OWN]),
    pb.Message(role=pb.MESSAGE_ROLE_USER, content="x"),
    pb.Message(role=pb.MESSAGE_ROLE_SYSTEM, content="Be brief."),
]


async def test_history_reaches_worker_and_log_as_it_came(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        await w.caller.step(step_request(session, messages=HISTORY))
        listed = await w.caller.stub.ListSteps(pb.ListStepsRequest(session_id=session.id))
        assert list(listed.steps[0].messages) == HISTORY
        assert list(w.worker.starts[-1].messages) == HISTORY


def test_calls_count_in_the_estimate_of_a_prompt() -> None:
    facts = SessionFacts("coder", 0, continues=True)
    calls = (ToolCall("1", "grep", "x" * 8000),)
    without, with_calls = (
        prompt_tokens(StepRequest("a", "s", (Message(MessageRole.ASSISTANT, "", given),)), facts, 4.0)
        for given in ((), calls)
    )
    assert with_calls - without == (8000 + len("grep")) // 4
