"""A gateway with HTTP over a real worker whose model is played: what it writes is a function of the conversation.

Everything but the model's arithmetic is real: rendering, tokens, engine, tool-call parsing, sessions in Redis.
"""

import json
import re
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway_driver import pool_document
from redis_servers import RedisServer
from roost import Client, SessionInfo
from roost.store.keys import POOLS, PoolKeys
from roost_gateway.config import GatewayConfig
from roost_gateway.front.server import GatewayServer
from roost_worker.config import EngineConfig, GrammarConfig, KvConfig, ModelConfig, WorkerConfig
from roost_worker.engine.plan import BatchPlan, BatchResult, NewSlot, RunnerInfo, Sampled
from roost_worker.render.renderer import Renderer
from roost_worker.render.vocabulary import Vocabulary
from roost_worker.seam.client import EngineClient
from roost_worker.seam.thread_engine import start_thread_engine
from roost_worker.server.server import WorkerServer

POOL = "test/agents"
MODEL = "played"
SECRET = "pool-secret"
BLOCK_TOKENS = 16
_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\n?|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Said:
    """One turn of the conversation, as the model reads it."""

    role: str
    text: str


Policy = Callable[[Sequence[Said]], str]
"""What the model writes after a conversation, whose last turn is its own, still empty."""


class PlayedRunner:
    """Implements `roost_worker.engine.plan.Runner`. The model's tokens are bytes."""

    def __init__(self, vocabulary: Vocabulary, eos: int, policy: Policy, context: int) -> None:
        blocks = 4 * context // BLOCK_TOKENS
        self.info = RunnerInfo(blocks, BLOCK_TOKENS, 1, 264, context, (eos,))
        self._eos, self._policy = eos, policy
        self._ids = {bytes([byte]): vocabulary.token_bytes.index(bytes([byte])) for byte in range(256)}
        self._bytes = dict(enumerate(vocabulary.token_bytes))
        self._bytes |= {index: text.encode() for text, index in vocabulary.control.items()}
        self._slots: dict[int, tuple[array[int], int]] = {}

    def check_grammar(self, grammar: str) -> str:
        return ""

    def begin(self, plan: BatchPlan) -> None:
        return None

    def run(self, plan: BatchPlan) -> BatchResult:
        for slot in plan.freed_slots:
            del self._slots[slot]
        for new in plan.new_slots:
            self._slots[new.slot] = (self._script(new), len(new.output))
        drawn = [self._draw(chunk.slot) for chunk in plan.chunks if chunk.sample]
        return BatchResult(tuple(drawn), seconds=0.001)

    def close(self) -> None:
        self._slots.clear()

    def _script(self, new: NewSlot) -> "array[int]":
        text = b"".join(self._bytes.get(index, b"") for index in new.context).decode(errors="replace")
        written = self._policy([Said(*turn) for turn in _TURN.findall(text)])
        return array("I", [*(self._ids[bytes([byte])] for byte in written.encode()), self._eos])

    def _draw(self, slot: int) -> Sampled:
        script, count = self._slots[slot]
        self._slots[slot] = (script, count + 1)
        token = script[count] if count < len(script) else self._eos
        return Sampled(slot, token, logprob=-0.5, top=((token, -0.5),))


@dataclass(frozen=True)
class AgentStack:
    """A running stack."""

    http: str
    """`http://host:port`"""
    client: Client
    worker: WorkerServer

    async def sessions(self) -> list[SessionInfo]:
        """All sessions, oldest first."""
        return [session async for session in self.client.sessions(pool=POOL)]


def publish(redis: RedisServer, context: int, aliases: Sequence[str] = ()) -> None:
    """Write the pool's document."""

    document = pool_document(POOL, model={"name": MODEL, "aliases": list(aliases), "contextTokens": context})
    document["roles"] = [{"name": "agent"}]
    with redis.client() as connection:
        connection.set(PoolKeys(POOL).document, json.dumps(document))
        connection.sadd(POOLS, POOL)


@asynccontextmanager
async def agent_stack(
    redis: RedisServer, folder: Path, policy: Policy, *, context: int = 1 << 17, aliases: Sequence[str] = ()
) -> AsyncIterator[AgentStack]:
    """Runs Redis' pool `POOL` with one worker whose model follows `policy`."""
    publish(redis, context, aliases)
    config = WorkerConfig(
        POOL,
        ModelConfig("dummy", "dummy://llama-tiny-long", "float32", context_tokens=context),
        store_url=redis.url,
        cache_dir=folder / "cache",
        pool_secret=SECRET,
        kv=KvConfig(BLOCK_TOKENS, 1 << 20),
        engine=EngineConfig(max_running=8, max_batch_tokens=4096),
        grammar=GrammarConfig(wait_seconds=30.0),
    )

    async def start_engine(config: WorkerConfig, model_dir: Path) -> EngineClient:
        renderer = Renderer.from_dir(model_dir)
        eos = renderer.eos_token_ids[0]
        return await start_thread_engine(lambda: PlayedRunner(renderer.vocabulary, eos, policy, context), config)

    def ended(reason: str) -> None:
        raise AssertionError(f"the worker has ended: {reason}")

    async with AsyncExitStack() as stack:
        worker = WorkerServer(config, start_engine, on_fatal=ended)
        await worker.start()
        stack.push_async_callback(worker.stop)
        gateway = GatewayServer(
            GatewayConfig(
                listen="127.0.0.1:0",
                http_listen="127.0.0.1:0",
                store_url=redis.url,
                pools=(POOL,),
                pool_secrets={POOL: SECRET},
                drain_seconds=0.0,
            )
        )
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        await gateway.opened.wait()
        client = await stack.enter_async_context(await Client.connect([gateway.address]))
        yield AgentStack(f"http://{gateway.http_address}", client, worker)
