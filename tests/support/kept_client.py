"""A client of /v1/conversations and /v1/responses, and what it reads in items."""

from typing import Any

from gateway_driver import World
from http_client import Answer, ask

PATH, RESPONSES = "/v1/conversations", "/v1/responses"
HTTP = {"http_listen": "127.0.0.1:0"}


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


def said(item: dict[str, Any]) -> str:
    """What an item says, whoever does."""
    match item["type"]:
        case "message":
            return f"{item['role']}: {''.join(block['text'] for block in item['content'])}"
        case "function_call":
            return f"call: {item['name']}{item['arguments']}"
        case "function_call_output":
            return f"output: {item['output']}"
    return str(item["type"])


class Client:
    """A client with one conversation."""

    def __init__(self, w: World, conversation_id: str = "") -> None:
        self.address = w.gateway.http_address
        self.id = conversation_id

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return await ask(self.address, method, path, body, **headers)

    async def sent(self, method: str, path: str, body: object = None) -> Any:
        answer = await self.send(method, path, body)
        assert answer.status == 200, answer.body
        return answer.json

    async def create(self, *items: Any, **fields: Any) -> dict[str, Any]:
        created: dict[str, Any] = await self.sent("POST", PATH, {"items": items, **fields})
        self.id = created["id"]
        return created

    async def respond(self, input_: Any, *, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        body = {"input": input_, "conversation": self.id, **fields}
        return await self.send("POST", RESPONSES, body, **(headers or {}))

    async def items(self, query: str = "?order=asc&limit=100") -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = (await self.sent("GET", f"{PATH}/{self.id}/items{query}"))["data"]
        return listed

    async def said(self) -> list[str]:
        return list(map(said, await self.items()))
