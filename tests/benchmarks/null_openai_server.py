"""A server of OpenAI's API that streams a script and computes nothing: what a router is measured before."""

import asyncio
import json
import time

from gateway_load import INTERVAL, TOKENS


async def null_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serves the script as chunks of a chat completion, and what a router asks of a server beside it."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lengths = [line.split(":")[1] for line in head.lower().split("\r\n") if line.startswith("content-length:")]
            await reader.readexactly(int(lengths[0]) if lengths else 0)
            if head.startswith("POST"):
                await _stream(writer)
            else:
                body = b'{"object":"list","data":[{"id":"null","object":"model"}]}' if "/models" in head else b"{}"
                head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _stream(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    begin = time.monotonic()
    for number in range(TOKENS):
        await asyncio.sleep(max(0.0, begin + (number + 1) * INTERVAL - time.monotonic()))
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "null", "choices": []}
        chunk["choices"] = [{"index": 0, "delta": {"content": f"{time.monotonic():016.6f} "}, "finish_reason": None}]
        _write(writer, json.dumps(chunk, separators=(",", ":")))
        await writer.drain()
    chunk["choices"] = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    _write(writer, json.dumps(chunk, separators=(",", ":")))
    _write(writer, "[DONE]")
    writer.write(b"0\r\n\r\n")


def _write(writer: asyncio.StreamWriter, data: str) -> None:
    event = f"data: {data}\n\n".encode()
    writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
