"""Fixtures of the clients' tests: a stack whose model is a played agent, a folder with its three files, the clients."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent_stack import AgentStack, agent_stack
from client_runs import Client
from installed_clients import node_clients, python_clients
from played_agent import FILES, answer
from redis_servers import RedisServer, fresh_redis, redis_server, shared_redis

__all__ = ["fresh_redis", "redis_server", "shared_redis"]

ALIASES = ("claude-sonnet-4-5", "gpt-4.1")


@pytest.fixture(autouse=True)
def marked(request: pytest.FixtureRequest) -> None:
    """Nothing here runs in `make test`."""
    assert request.node.get_closest_marker("clients"), "mark it: pytestmark = pytest.mark.clients"


@pytest.fixture
async def stack(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[AgentStack]:
    async with agent_stack(redis_server, tmp_path / "stack", answer, aliases=ALIASES) as running:
        yield running


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with the files that the agent reads."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for number, name in enumerate(FILES, 1):
        (folder / name).write_text(f"the number {11 * number} is here\n")
    return folder


@pytest.fixture
def python(stack: AgentStack, repository: Path, tmp_path: Path) -> Client:
    """Runs a program of `programs/` with the Python clients."""
    return Client(stack, repository, tmp_path / "home", [str(python_clients())])


@pytest.fixture
def node(stack: AgentStack, repository: Path, tmp_path: Path) -> Client:
    """Runs a program of `programs/` with Node.js, or an agent's command line."""
    return Client(stack, repository, tmp_path / "home", [], node_clients())
