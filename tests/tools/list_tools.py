"""Prints the tools of an MCP server as JSON: `list_tools.py COMMAND ARGUMENT…`. Runs where the package `mcp` is."""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import PaginatedRequestParams


async def main(command: str, *arguments: str) -> None:
    server = StdioServerParameters(command=command, args=list(arguments), env=dict(os.environ))
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        tools, cursor = [], None
        while True:
            page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor))
            tools += page.tools
            cursor = page.next_cursor
            if not cursor:
                break
    print(
        json.dumps(
            [
                {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
                for tool in tools
            ]
        )
    )


asyncio.run(main(*sys.argv[1:]))
