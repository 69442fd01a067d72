"""Coding agents of npm do a task of several steps through Roost, and go on with it in a second run."""

import json
from pathlib import Path

import pytest

from agent_stack import AgentStack
from client_runs import ANSWER, TASK, Client, recomputed_share
from roost import SessionInfo

pytestmark = pytest.mark.clients

AGAIN = "Read them once more."
CODEX = """
model = "played"
model_provider = "roost"
[model_providers.roost]
name = "Roost"
base_url = "{base}/v1"
env_key = "ROOST_API_KEY"
wire_api = "responses"
"""


async def sessions_with_tools(stack: AgentStack) -> list[SessionInfo]:
    """Those of the agent itself: calls for a title have no tools."""
    described = [await stack.client.session(session.id).info() for session in await stack.sessions()]
    return [session for session in described if session.tools]


async def is_continued_in_one_session(stack: AgentStack, steps: int) -> None:
    (session,) = await sessions_with_tools(stack)
    assert session.steps == steps
    assert recomputed_share(session) <= 0.01


async def test_opencode(node: Client, stack: AgentStack) -> None:
    model = {"name": "played", "limit": {"context": 131072, "output": 8192}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Roost",
        "options": {"baseURL": f"{stack.http}/v1", "apiKey": "unused"},
        "models": {"played": model},
    }
    settings = {"provider": {"roost": provider}, "autoupdate": False, "share": "disabled"}
    environment = {"OPENCODE_CONFIG_CONTENT": json.dumps(settings), "OPENCODE_DISABLE_AUTOUPDATE": "1"}
    assert ANSWER in await node.run(["opencode", "run", "-m", "roost/played", TASK], environment)
    await is_continued_in_one_session(stack, 3)
    again = ["opencode", "run", "--continue", "-m", "roost/played", AGAIN]
    assert ANSWER in await node.run(again, environment)
    await is_continued_in_one_session(stack, 6)


@pytest.mark.parametrize("api", ["openai-completions", "anthropic-messages"])
async def test_pi(node: Client, stack: AgentStack, tmp_path: Path, api: str) -> None:
    settings = tmp_path / "pi"
    settings.mkdir()
    model = {"id": "played", "name": "played", "reasoning": False, "input": ["text"], "contextWindow": 131072}
    model |= {"maxTokens": 8192, "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}}
    base = stack.http if api == "anthropic-messages" else f"{stack.http}/v1"
    provider = {"baseUrl": base, "api": api, "apiKey": "unused", "models": [model]}
    (settings / "models.json").write_text(json.dumps({"providers": {"roost": provider}}))
    environment = {"PI_CODING_AGENT_DIR": str(settings), "PI_OFFLINE": "1"}
    command = ["pi", "-p", "--provider", "roost", "--model", "played"]
    assert ANSWER in await node.run([*command, TASK], environment)
    await is_continued_in_one_session(stack, 3)
    assert ANSWER in await node.run([*command, "--continue", AGAIN], environment)
    await is_continued_in_one_session(stack, 6)


async def test_claude_code(node: Client, stack: AgentStack, tmp_path: Path) -> None:
    environment = {
        "ANTHROPIC_BASE_URL": stack.http,
        "ANTHROPIC_AUTH_TOKEN": "unused",
        "CLAUDE_CONFIG_DIR": str(tmp_path / "claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    command = ["claude", "--model", "played", "--allowedTools", "Read"]
    assert ANSWER in await node.run([*command, "-p", TASK], environment)
    await is_continued_in_one_session(stack, 3)
    assert ANSWER in await node.run([*command, "--continue", "-p", AGAIN], environment)
    await is_continued_in_one_session(stack, 6)


async def test_codex(node: Client, stack: AgentStack, tmp_path: Path) -> None:
    settings = tmp_path / "codex"
    settings.mkdir()
    (settings / "config.toml").write_text(CODEX.format(base=stack.http))
    environment = {"CODEX_HOME": str(settings), "ROOST_API_KEY": "unused"}
    command = ["codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    assert ANSWER in await node.run([*command, TASK], environment)
    await is_continued_in_one_session(stack, 3)
    assert ANSWER in await node.run([*command, "resume", "--last", AGAIN], environment)
    await is_continued_in_one_session(stack, 6)
