"""SDKs and frameworks run a task of several steps through Roost: one session, whose log nobody computes again."""

import pytest

from agent_stack import AgentStack
from client_runs import ANSWER, Client, recomputed_share

pytestmark = pytest.mark.clients

PYTHON = [
    ("chat_openai.py", "whole"),
    ("chat_openai.py", "stream"),
    ("messages_anthropic.py", "whole"),
    ("messages_anthropic.py", "stream"),
    ("responses_openai.py", "whole", "history"),
    ("responses_openai.py", "stream", "history"),
    ("responses_openai.py", "stream", "previous"),
    ("responses_openai.py", "whole", "conversation"),
    ("responses_openai.py", "stream", "conversation"),
    ("background_openai.py", "poll"),
    ("background_openai.py", "resume"),
    ("agents_openai.py", "chat"),
    ("agents_openai.py", "responses"),
    ("agents_openai.py", "previous"),
    ("agents_openai.py", "conversation"),
    ("agents_openai.py", "session"),
    ("agent_pydantic_ai.py", "chat"),
    ("agent_pydantic_ai.py", "responses"),
    ("agent_pydantic_ai.py", "messages"),
    ("agent_langgraph.py", "whole"),
    ("agent_langgraph.py", "stream"),
]
NODE = [("chat_openai.mjs", "whole"), ("chat_openai.mjs", "stream")]


async def is_one_session(stack: AgentStack, steps: int = 3) -> None:
    (session,) = await stack.sessions()
    assert session.steps == steps
    assert recomputed_share(session) <= 0.01


@pytest.mark.parametrize("program", PYTHON, ids=" ".join)
async def test_python_clients(python: Client, stack: AgentStack, program: tuple[str, ...]) -> None:
    assert (await python.program(*program)).strip() == ANSWER
    await is_one_session(stack)


async def test_conversations_of_openais_package(python: Client) -> None:
    assert await python.program("conversations_openai.py") == ""


@pytest.mark.parametrize("program", NODE, ids=" ".join)
async def test_node_clients(node: Client, stack: AgentStack, program: tuple[str, ...]) -> None:
    assert (await node.program(*program)).strip() == ANSWER
    await is_one_session(stack)
