"""A real worker on loopback whose model is a script: real gRPC, engine, renderer and Redis; no torch.

A script is chosen by the request's seed and says what is generated, token by token; the dummy
model's tokens are bytes.
A gate lets the test decide how many tokens are drawn.
"""

import asyncio
import threading
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from roost.contract.loghash import extend, pack_ids
from roost.contract.parts import PartLog
from roost.grpc_errors import details_of
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost.v1 import worker_service_pb2_grpc as pb_grpc
from roost.wire_parts import parts_from_wire
from roost_worker.config import EngineConfig, GrammarConfig, KvConfig, ModelConfig, WorkerConfig
from roost_worker.engine.parked import common_prefix
from roost_worker.engine.plan import BatchPlan, BatchResult, Chunk, NewSlot, RunnerInfo, Sampled
from roost_worker.render.renderer import Renderer
from roost_worker.seam.client import EngineClient
from roost_worker.seam.thread_engine import start_thread_engine
from roost_worker.server.server import WorkerServer

SECRET = "pool-secret"
POOL = "default/pool"
SESSION = f"{POOL}/01hzzzzzzzzzzzzzzzzzzzzzzz"
VOCABULARY = 264
WAIT = 60.0
"""Far more than anything here takes."""


def reason(error: grpc.aio.AioRpcError) -> str:
    """`ErrorInfo.reason` of a refusal."""
    return details_of(error).reason


class Gate:
    """Lets tokens through one by one, or all once it is open."""

    def __init__(self, opened: bool = True) -> None:
        self._changed = threading.Condition()
        self._opened, self._permits, self._waiting = opened, 0, 0

    def let(self, tokens: int) -> None:
        with self._changed:
            self._opened, self._permits = False, self._permits + tokens
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._opened = False

    def open(self) -> None:
        with self._changed:
            self._opened = True
            self._changed.notify_all()

    def wait(self) -> None:
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._opened or self._permits > 0)
            self._waiting -= 1
            self._permits -= not self._opened

    async def reached(self) -> None:
        """Wait until an iteration is stopped here."""
        await asyncio.to_thread(self._wait_until_reached)

    def _wait_until_reached(self) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting > 0 and not self._permits, WAIT):
                raise TimeoutError("no iteration has come to the gate")


class ScriptedRunner:
    """Implements `roost_worker.engine.plan.Runner`: the n-th output token of a request is its script's n-th id."""

    def __init__(self, scripts: dict[int, Sequence[int]], eos: int, gate: Gate, context: int, blocks: int) -> None:
        self.info = RunnerInfo(blocks, 16, 1, VOCABULARY, context, (eos,))
        self.contexts: list[list[int]] = []
        """Whole context of each request, in the order of admission."""
        self.grammar_refusal = ""
        self.forced = 0
        """How many of a script's ids come with each that is drawn, as if a grammar forced them."""
        self.right_guesses = 0
        """How many guesses of the engine were the script's next ids."""
        self._scripts, self._eos, self._gate = scripts, eos, gate
        self._slots: dict[int, tuple[NewSlot, int]] = {}

    def check_grammar(self, grammar: str) -> str:
        return self.grammar_refusal

    def begin(self, plan: BatchPlan) -> None:
        return None

    def run(self, plan: BatchPlan) -> BatchResult:
        for slot in plan.freed_slots:
            del self._slots[slot]
        for new in plan.new_slots:
            self._slots[new.slot] = (new, len(new.output))
            self.contexts.append([*new.context, *new.output])
        drawing = [chunk for chunk in plan.chunks if chunk.sample]
        if drawing:
            self._gate.wait()
        return BatchResult(tuple(map(self._draw, drawing)), seconds=0.01)

    def close(self) -> None:
        self._slots.clear()

    def _draw(self, chunk: Chunk) -> Sampled:
        slot = chunk.slot
        new, count = self._slots[slot]
        script = self._scripts.get(new.sampling.seed, ())
        right = common_prefix(chunk.guesses, array("i", script[count:]))
        self.right_guesses += right
        known = [*script, self._eos] if right else script
        following = tuple(known[count + 1 : count + 1 + (right or self.forced)])
        self._slots[slot] = (new, count + 1 + len(following))
        if count < len(script) and script[count] < 0:
            return Sampled(slot, -1, error="the script breaks here")
        token = script[count] if count < len(script) else self._eos
        return Sampled(slot, token, logprob=-0.5, top=((token, -0.5),), following=following)


@dataclass
class Collected:
    """A stream's deltas joined; overlaps and gaps fail."""

    tokens: int = 0
    text_bytes: int = 0
    ids: list[int] = field(default_factory=list)
    text: str = ""
    deltas: list[pb.Delta] = field(default_factory=list)
    part_offset: int = 0
    parts: PartLog = field(default_factory=PartLog)

    def add(self, delta: pb.Delta) -> None:
        at = (self.tokens + len(self.ids), self.text_bytes + len(self.text.encode()))
        assert (delta.token_offset, delta.text_offset) == at, (
            f"delta at {delta.token_offset, delta.text_offset}, not {at}"
        )
        assert delta.part_offset == self.part_offset + self.parts.size
        self.parts.extend(parts_from_wire(delta.parts))
        self.ids += delta.token_ids
        self.text += delta.text
        self.deltas.append(delta)


class Stream:
    """One Generate call, driven message by message."""

    def __init__(self, stub: Any, secret: str = SECRET, **options: Any) -> None:
        metadata = (("roost-pool-secret", secret), *options.pop("metadata", ()))
        self.call = stub.Generate(metadata=metadata, timeout=options.pop("timeout", WAIT), **options)
        self.out = Collected()
        self.accepted: pb.Accepted | None = None
        self.finished: pb.Finished | None = None

    async def send(self, **message: Any) -> None:
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # `read` tells why the call is over
            await self.call.write(pb.GenerateRequest(**message))

    async def read(self) -> pb.GenerateResponse | None:
        """The next message, or None at the end of a good call. Raises AioRpcError at the end of another."""
        message = await self.call.read()
        if message is grpc.aio.EOF:
            if await self.call.code() is not grpc.StatusCode.OK:
                await self.call  # raises
            return None
        match message.WhichOneof("message"):
            case "accepted":
                self.accepted = message.accepted
            case "delta":
                self.out.add(message.delta)
            case "finished":
                self.finished = message.finished
        return message

    async def until(self, kind: str, count: int = 1) -> pb.GenerateResponse:
        """Reads on until the `count`-th message of this kind."""
        while True:
            message = await self.read()
            assert message is not None, f"the stream ended before {kind}"
            count -= message.WhichOneof("message") == kind
            if count == 0:
                return message

    async def until_tokens(self, count: int) -> None:
        """Reads on until this many tokens came, in however many deltas."""
        while len(self.out.ids) < count:
            await self.until("delta")

    async def fail(self) -> grpc.aio.AioRpcError:
        """Reads to the end, which must be an error."""
        try:
            while await self.read() is not None:
                pass
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("the call ended well")

    async def commit(self, head: api.Head) -> None:
        await self.send(commit=pb.Commit(head=head))
        await self.call.done_writing()
        assert await self.read() is None

    def break_off(self) -> None:
        self.call.cancel()


class Ledger:
    """A session as its gateway knows it."""

    def __init__(self, session_id: str = SESSION) -> None:
        self.session_id, self.ids, self.ends = session_id, [], []
        self.epoch = 0
        self._hash = b""

    @property
    def head(self) -> api.Head:
        return api.Head(length=len(self.ids), log_hash=self._hash)

    def commit(self, step_ids: Sequence[int]) -> api.Head:
        self.ids += step_ids
        self.ends.append(len(self.ids))
        self._hash = extend(self._hash, pack_ids(step_ids))
        return self.head

    def next_attempt(self) -> api.Attempt:
        self.epoch += 1
        return attempt(self.epoch)

    def ref(self) -> pb.SessionRef:
        return pb.SessionRef(session_id=self.session_id, generation=1, head=self.head)

    def history(self, start: int, end: int | None = None, *, ends: bool = True, last: bool = True) -> pb.History:
        stop = len(self.ids) if end is None else end
        inside = [place for place in self.ends if start < place <= stop] if ends else []
        return pb.History(offset=start, token_ids=pack_ids(self.ids[start:stop]), last=last, step_ends=inside)


def attempt(epoch: int) -> api.Attempt:
    return api.Attempt(epoch=epoch, nonce=epoch.to_bytes(16, "big"))


@dataclass
class World:
    """A running worker and the way to it."""

    server: WorkerServer
    runner: ScriptedRunner
    gate: Gate
    stub: Any
    renderer: Renderer
    fatal: list[str]
    scripts: dict[int, Sequence[int]]

    def script(self, seed: int, text: str, *, eos: bool = True) -> list[int]:
        """What requests of this seed generate: the bytes of `text`, and the end of the turn."""
        ids = [self.token(byte) for byte in text.encode()]
        self.scripts[seed] = [*ids, self.renderer.eos_token_ids[0]] if eos else ids
        return list(self.scripts[seed])

    def token(self, byte: int) -> int:
        return self.renderer.vocabulary.token_bytes.index(bytes([byte]))

    def stream(self, **options: Any) -> Stream:
        return Stream(self.stub, **options)

    async def resume(self, ledger: Ledger, delivered: int) -> Stream:
        """Takes the ledger's first attempt over after so many tokens of one byte each."""
        stream = self.stream()
        stream.out = Collected(delivered, delivered)
        old, new = attempt(1), ledger.next_attempt()
        place = {"from_token": delivered, "from_text_byte": delivered}
        await stream.send(resume=pb.Resume(attempt=old, new_attempt=new, session_id=ledger.session_id, **place))
        return stream

    async def begin(self, ledger: Ledger | None, text: str = "hi", *, seed: int = 1, **fields: Any) -> Stream:
        """Sends Start for the ledger's next attempt; None is one-shot work."""
        stream = self.stream(metadata=fields.pop("metadata", ()))
        sampling = {"seed": seed, "max_tokens": 128, **fields.pop("sampling", {})}
        await stream.send(
            start=pb.Start(
                attempt=fields.pop("attempt", None) or (ledger.next_attempt() if ledger else attempt(1)),
                session=ledger.ref() if ledger else None,
                tenant=fields.pop("tenant", "tenant"),
                messages=[api.Message(role=api.MESSAGE_ROLE_USER, content=text)],
                sampling=api.Sampling(**sampling),
                **fields,
            )
        )
        return stream

    async def step(self, ledger: Ledger, text: str = "hi", **fields: Any) -> Stream:
        """A whole committed step; the worker must know the log."""
        stream = await self.begin(ledger, text, **fields)
        await stream.until("finished")
        await self.commit(ledger, stream)
        return stream

    async def commit(self, ledger: Ledger, stream: Stream) -> None:
        await stream.commit(ledger.commit([*stream.accepted.prompt_token_ids, *stream.out.ids]))

    def call(self, method: str, request: Any, secret: str = SECRET) -> Any:
        return getattr(self.stub, method)(request, metadata=(("roost-pool-secret", secret),), timeout=WAIT)

    async def state(self) -> pb.GetStateResponse:
        return await self.call("GetState", pb.GetStateRequest())


def worker_config(store_url: str, cache_dir: Path, context: int = 256, **fields: Any) -> WorkerConfig:
    model = ModelConfig("dummy", "dummy://llama-tiny", "float32", context_tokens=context)
    parts = {"kv": KvConfig(16, 1 << 20), "engine": EngineConfig(4, 64), "grammar": GrammarConfig(wait_seconds=WAIT)}
    values = {**parts, "pool_secret": SECRET, **fields}
    return WorkerConfig(POOL, model, store_url=store_url, cache_dir=cache_dir, **values)


@asynccontextmanager
async def scripted_world(config: WorkerConfig, *, blocks: int = 64, **options: Any) -> AsyncIterator[World]:
    """Starts a worker over a scripted runner, and stops it."""
    scripts: dict[int, Sequence[int]] = {}
    gate, fatal, runners = Gate(), [], []

    async def start_engine(config: WorkerConfig, model_dir: Path) -> EngineClient:
        eos = Renderer.from_dir(model_dir).eos_token_ids[0]
        runners.append(ScriptedRunner(scripts, eos, gate, config.model.context_tokens, blocks))
        return await start_thread_engine(lambda: runners[0], config)

    server = WorkerServer(config, start_engine, on_fatal=fatal.append, **options)
    address = await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = pb_grpc.WorkerServiceStub(channel)
            yield World(server, runners[0], gate, stub, server.shell.renderer, fatal, scripts)
    finally:
        gate.open()
        await server.stop()
