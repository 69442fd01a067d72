"""Runs clients as their users do: processes with a base URL, in the folder that they work on."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent_stack import AgentStack
from roost import SessionInfo

PROGRAMS = Path(__file__).parents[1] / "clients" / "programs"
LIMIT_SECONDS = 180.0
TASK = "Read a.txt, b.txt and c.txt, and tell me the numbers that they hold."
ANSWER = "The numbers are 11, 22, 33"


@dataclass(frozen=True)
class Client:
    """A client's way to the stack."""

    stack: AgentStack
    repository: Path
    home: Path
    prefix: Sequence[str]
    path: Path | None = None

    async def program(self, name: str, *arguments: str) -> str:
        """Runs a program of `programs/` and returns what it prints."""
        runner = self.prefix or [str((self.path or Path()) / "node")]
        return await self.run([*runner, str(PROGRAMS / name), *arguments])

    async def run(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        """Runs a command in the repository and returns what it prints; another exit status than 0 fails."""
        self.home.mkdir(exist_ok=True)
        path = f"{self.path}:{os.environ['PATH']}" if self.path else os.environ["PATH"]
        variables = {
            "PATH": path,
            "HOME": str(self.home),
            "ROOST_BASE_URL": self.stack.http,
            "ROOST_REPOSITORY": str(self.repository),
            "NODE_PATH": str(self.path.parent) if self.path else "",
            **(environment or {}),
        }
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.repository,
            env=variables,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                out, errors = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        printed = f"{out.decode()}\n{errors.decode()}"
        assert process.returncode == 0, f"{command[0]} ended with {process.returncode}:\n{printed}"
        return out.decode()


def recomputed_share(session: SessionInfo) -> float:
    """Share of a session's prompt tokens that were computed again although its log had them."""
    return session.usage.reconstructed_tokens / max(1, session.usage.prompt_tokens)
