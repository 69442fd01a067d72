"""A client that shows what comes over the connection: how a body is cut into chunks, and whether it ended."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Answer:
    """A response, as far as it came."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    is_complete: bool = False
    """Whether the body ended as it should: by its length, or by its last chunk."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> list[Any]:
        """The `data:` lines of a stream, parsed."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    @property
    def comments(self) -> list[str]:
        return [line.removeprefix(": ") for line in self.body.decode().split("\n") if line.startswith(":")]


@dataclass(slots=True)
class Connection:
    """One connection to a server. A request may be read to its end, or as far as a test wants."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answer: Answer = field(init=False)

    @classmethod
    async def to(cls, address: str) -> "Connection":
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Sends a request. Names of headers have `_` for `-`."""
        lines = [f"{method} {path} HTTP/1.1", "host: test", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def head(self) -> Answer:
        """Reads status and headers."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        self.answer = Answer(int(lines[0].split()[1]), {name.lower(): value for name, value in pairs})
        return self.answer

    async def until(self, text: bytes) -> None:
        """Reads chunks until the body has `text`."""
        while text not in self.answer.body:
            assert await self._chunk(), f"the body ended without {text!r}: {self.answer.body!r}"

    async def end(self, *, has_body: bool = True) -> Answer:
        """Reads the rest of the body, to its end or to that of the connection."""
        answer = self.answer
        if "content-length" in answer.headers:
            size = int(answer.headers["content-length"]) if has_body else 0
            answer.body = await self.reader.readexactly(size)
            answer.is_complete = True
            return answer
        try:
            while await self._chunk():
                pass
            answer.is_complete = True
        except asyncio.IncompleteReadError:
            assert self.reader.at_eof()
        return answer

    async def _chunk(self) -> bool:
        """Reads one chunk; false after the last. Raises IncompleteReadError when the connection ends."""
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        data = await self.reader.readexactly(size + 2)
        self.answer.body += data[:-2]
        return size > 0

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def ask(address: str, method: str, path: str, body: object = None, **headers: str) -> Answer:
    """One request on a connection of its own; `body` is bytes, or a value to send in JSON."""
    connection = await Connection.to(address)
    try:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        await connection.send(method, path, raw, **headers)
        await connection.head()
        return await connection.end(has_body=method != "HEAD")
    finally:
        await connection.close()
