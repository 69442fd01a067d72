"""A server that takes connections and never answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """Serve on a free port, which is yielded. Connections that clients still have at the end are broken."""
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections[task] = writer
        try:
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn
            del connections[task]

    async with await asyncio.start_server(keep_silent, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        server.close()
        await asyncio.sleep(0)  # connections that came just now have begun
        for writer in connections.values():
            writer.transport.abort()
        await asyncio.gather(*connections)
