"""Recorded requests of agent clients, replayed: how much of a log is computed again, and how many sessions are made.

Each request of a recording goes to a gateway over HTTP as it was sent; ids of calls and responses in it are replaced by
those that this gateway gave before, and texts, of which a recording keeps lengths only, are filled up. The worker, its
tokens and its KV blocks are real; its model writes what the recorded server wrote. Each recording is replayed twice, on
an empty stack each time:

- sessions: as it is.
- prefix cache: the gateway forgets each conversation at once (its index in Redis is deleted), so that all of the
  history is rendered and tokenised again, and only equal blocks of 16 tokens are found in the worker's prefix cache.
  This is what a server without sessions does.

`recomputed` is the share of the tokens of an earlier request of the same conversation, its reply included, that the
next one found neither in a session nor in the cache, though its history has them; a log's last token, which is always
computed again, is not counted. `sessions` counts those in which steps were taken, `conversations` those recorded.

    python tests/benchmarks/bench_wire_replay.py --records FOLDER [--only CLIENT …]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("proto", "gateway", "worker", "operator", "tests/support")]

from figures import emit, machine

from agent_stack import POOL, AgentStack, Said, agent_stack
from http_client import ask
from redis_servers import RedisServer
from roost import Usage
from roost.store.keys import PoolKeys

_LOREM = re.compile(r"lorem\[(\d+):(\w+)\]")
_CALL = re.compile(r"\b(?:call|toolu)_(\d{20})\b")
_RESPONSE = re.compile(r"\bresp_(\d{20})\b")
_DROPPED = {"content-length", "host", "accept-encoding", "connection", "content-encoding"}


@dataclass
class Replay:
    """One recording on its way through a stack."""

    redis: RedisServer
    forgets: bool
    """Whether the gateway forgets each conversation."""
    planned: str = ""
    """What the model writes next."""
    calls: dict[str, str] = field(default_factory=dict)
    """Numbers of recorded calls to the ids that this gateway gave."""
    given: dict[str, list[str]] = field(default_factory=dict)
    """Ids of each conversation's calls, in order."""
    responses: dict[str, str] = field(default_factory=dict)
    known_tokens: dict[str, int] = field(default_factory=dict)
    """Tokens of each conversation after its latest reply."""
    sessions: set[str] = field(default_factory=set)
    known: int = 0
    recomputed: int = 0
    matches: dict[str, int] = field(default_factory=dict)

    def policy(self, turns: Sequence[Said]) -> str:
        return self.planned

    def own_ids(self, value: Any) -> Any:
        """The value with texts filled up and ids replaced."""
        if isinstance(value, dict):
            return {key: self.own_ids(member) for key, member in value.items()}
        if isinstance(value, list):
            return [self.own_ids(member) for member in value]
        if not isinstance(value, str):
            return value
        text = _LOREM.sub(lambda match: _filled(int(match[1]), match[2]), value)
        text = _CALL.sub(lambda match: self.calls.get(match[1], match[0]), text)
        return _RESPONSE.sub(lambda match: self.responses.get(match[1], match[0]), text)


def _filled(length: int, mark: str) -> str:
    return (f"{mark} " * (length // (len(mark) + 1) + 1))[:length]


def written(reply: dict[str, Any]) -> str:
    """A recorded reply as this model writes it."""
    parts = [f"<think>\n{reply['reasoning']}\n</think>\n\n"] if reply.get("reasoning") else []
    parts.append(reply["text"] or "")
    parts += [
        f'\n<tool_call>\n{{"name": "{call["name"]}", "arguments": {call["arguments"]}}}\n</tool_call>'
        for call in reply["calls"]
    ]
    return "".join(parts)


async def play(stack: AgentStack, replay: Replay, request: dict[str, Any]) -> None:
    """Sends one request and counts what came of it."""
    reply = request["reply"]
    name = f"{request['kind']} {_system(request['body'])}"
    if not _has_turns(request["body"]) and "previous_response_id" not in request["body"]:
        replay.given[name] = []  # it begins, or begins again after a compaction
    replay.calls |= zip(_recorded_calls(request["body"]), replay.given.setdefault(name, []), strict=False)
    body = replay.own_ids(request["body"])
    replay.planned = written(reply)
    headers = {name.replace("-", "_"): value for name, value in request["headers"] if name not in _DROPPED}
    if replay.forgets:
        forget(replay.redis)
    body["model"] = ""
    response = await ask(stack.http.removeprefix("http://"), "POST", request["path"], body, **headers)
    if response.status != 200 or not response.is_complete:
        raise RuntimeError(f"{request['path']}: {response.status} {response.body[:500]!r}")
    session_id = response.headers["x-roost-session"]
    (step,) = [step async for step in stack.client.session(session_id).steps()][-1:]
    ids = [call.id for call in step.output.tool_calls]
    replay.given[name] += ids
    replay.calls |= {call["id"][-20:]: own for call, own in zip(reply["calls"], ids, strict=False)}
    if match := re.search(r'"id": ?"(resp_[^"]+)"', response.body.decode()):
        replay.responses[f"{len(replay.responses) + 1:020}"] = match[1]
    if reason := response.headers.get("x-roost-reason"):
        print(f"  {request['kind']} {request['t']} {response.headers['x-roost-match']}: {reason}")
    _count(replay, name, request["body"], session_id, response.headers["x-roost-match"], step.usage, step.head.length)


def _recorded_calls(body: dict[str, Any]) -> list[str]:
    """Numbers of all calls in a history. Concurrent requests may have them in another order."""
    return list(dict.fromkeys(_CALL.findall(json.dumps(body)))) if _has_turns(body) else []


def _count(
    replay: Replay, name: str, body: dict[str, Any], session_id: str, match: str, usage: Usage, length: int
) -> None:
    replay.sessions.add(session_id)
    replay.matches[match] = replay.matches.get(match, 0) + 1
    before = length - usage.output_tokens
    if name in replay.known_tokens and (_has_turns(body) or "previous_response_id" in body):
        known = min(replay.known_tokens[name], before) - 1
        replay.known += known
        replay.recomputed += max(0, known - usage.cached_tokens)
    replay.known_tokens[name] = length


def _system(body: dict[str, Any]) -> int:
    messages = body.get("messages") or body.get("input") or []
    first = messages[0] if messages and messages[0].get("role") in ("system", "developer") else ""
    return hash(json.dumps([body.get("system"), body.get("instructions"), first, len(body.get("tools", []))]))


def _has_turns(body: dict[str, Any]) -> bool:
    items = body.get("messages") or body.get("input") or []
    return any(item.get("role") == "assistant" or item.get("type") == "function_call" for item in items)


def forget(redis: RedisServer) -> None:
    with redis.client() as connection:
        for key in connection.scan_iter(PoolKeys(POOL).conversation(b"") + "*"):
            connection.delete(key)


async def replayed(file: Path, *, forgets: bool) -> Replay:
    with RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        replay = Replay(redis, forgets)
        async with agent_stack(redis, Path(folder), replay.policy) as stack:
            for request in steps_of(file):
                await play(stack, replay, request)
        return replay


def steps_of(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text().splitlines():
        request = json.loads(line)
        if request["method"] == "POST" and request["reply"]["status"] == 200:
            yield request


def figures(replay: Replay) -> dict[str, Any]:
    share = replay.recomputed / replay.known if replay.known else 0.0
    return {
        "recomputed": round(share, 4),
        "known_tokens": replay.known,
        "sessions": len(replay.sessions),
        "conversations": len(replay.known_tokens),
        "matches": replay.matches,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description="Replay recorded requests of agent clients.")
    parser.add_argument("--records", type=Path, required=True, help="folder of CLIENT.jsonl")
    parser.add_argument("--only", nargs="*", help="clients; default all")
    options = parser.parse_args()
    clients = {}
    for file in sorted(options.records.glob("*.jsonl")):
        if options.only and file.stem not in options.only:
            continue
        both = {name: figures(await replayed(file, forgets=forgets)) for name, forgets in _WAYS.items()}
        clients[file.stem] = both
        row = [f"{both[name]['recomputed']:8.2%} {both[name]['sessions']:3}" for name in _WAYS]
        print(f"{file.stem:36}", *row, both["sessions"]["conversations"], both["sessions"]["matches"], flush=True)
    emit({"benchmark": "wire_replay", "machine": machine(), "clients": clients})


_WAYS = {"sessions": False, "prefix cache": True}


if __name__ == "__main__":
    asyncio.run(main())
