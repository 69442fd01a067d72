"""Thinking leaves a log that a worker has cached. Gateway, worker, engine and Redis are real, the model is a script."""

from pathlib import Path

import pytest

import worker_harness
from gateway_driver import Caller, gateway, publish_pool, step_request
from redis_servers import RedisServer
from roost.v1 import session_service_pb2 as pb
from roost_gateway.fleet import grace
from worker_harness import SECRET, World, scripted_world, worker_config

POOL = worker_harness.POOL
BLOCK = 16


def spelled(worker: World, steps: "list[pb.CommittedStep]") -> str:
    table = list(worker.renderer.vocabulary.token_bytes)
    for text, index in worker.renderer.vocabulary.control.items():
        table[index] = text.encode()
    ids = (index for step in steps for index in (*step.prompt_token_ids, *step.output_token_ids))
    return b"".join(table[index] for index in ids).decode()


async def test_the_log_reads_as_if_nobody_had_thought_and_its_beginning_stays_cached(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)
    publish_pool(redis_server, POOL, model={"name": "m", "contextTokens": 512, "thinking": "drop"})
    config = worker_config(redis_server.url, tmp_path, 512)
    async with scripted_world(config) as worker, gateway(redis_server, pool_secrets={POOL: SECRET}) as server:
        caller = Caller(server.address)
        session, head = await caller.open(pool=POOL, system="Be brief."), None
        user = pb.Message(role=pb.MESSAGE_ROLE_USER, content="hello")
        result = pb.Message(role=pb.MESSAGE_ROLE_TOOL, content="7", tool_call_id="c")
        moved = []
        for seed, (step_id, message) in enumerate([("a", user), ("b", result), ("c", user)], 1):
            worker.script(seed, f"<think>Hm.</think>{step_id.upper()}!")
            sampling = pb.Sampling(seed=seed, max_tokens=100)
            request = step_request(session, step_id, expected_head=head, sampling=sampling, messages=[message])
            log = await caller.step(request)
            assert log.committed is not None
            head, usage = log.committed.head, log.committed.usage
            moved.append("migrated" in log.events)
        assert moved == [False, False, True]
        listed = await caller.stub.ListSteps(pb.ListStepsRequest(session_id=session.id, include_token_ids=True))
        await caller.aclose()
    first, second, third = listed.steps
    turns = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>"
    texts = [("hello", "A!"), ("<tool_response>\n7\n</tool_response>", "B!"), ("hello", "<think>Hm.</think>C!")]
    assert spelled(worker, [first, second, third]) == "\n".join(
        ["<|im_start|>system\nBe brief.<|im_end|>", *(turns.format(*turn) for turn in texts)]
    )
    assert [step.reasoning for step in listed.steps] == ["Hm."] * 3
    before_thinking = len(first.prompt_token_ids)
    assert usage.cached_tokens > before_thinking - BLOCK
    assert usage.cached_tokens + usage.reconstructed_tokens == second.head.length - 1
