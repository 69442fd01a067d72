"""The engine over the real runner, in float64: scheduling, preemption and the cache never change a token."""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from follower_rank import tensor_parallel
from roost_worker.config import EngineConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import Evict, SamplingParams, StopReason, Submit
from roost_worker.model.runner import TorchRunner, build_runner
from runner_driver import dummy_dir, prompts, worker_config

BLOCK_BYTES = 16384
OUTPUT = 24
SAMPLING = [
    SamplingParams(max_tokens=OUTPUT),
    SamplingParams(seed=9, temperature=1.0, max_tokens=OUTPUT),
    SamplingParams(seed=10, temperature=0.8, top_p=0.9, frequency_penalty=0.3, max_tokens=OUTPUT),
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dummy_dir("llama-tiny", tmp_path_factory.mktemp("model"))


def _submit(name: str, ids: Sequence[int], sampling: SamplingParams, session: str | None = None) -> Submit:
    return Submit(name, array("I", ids), len(ids), sampling, b"tenant", session)


def _run(engine: Engine, requests: Sequence[Submit]) -> dict[str, list[int]]:
    for request in requests:
        engine.handle(request)
    output: dict[str, list[int]] = {request.request_id: [] for request in requests}
    running = set(output)
    while running:
        outputs = engine.iterate()
        assert outputs is not None
        engine.check_integrity()
        for answer in outputs.outputs:
            output[answer.request_id] += answer.token_ids
            assert answer.stop in (None, StopReason.LENGTH), answer.error
            if answer.stop:
                running.discard(answer.request_id)
    return output


@contextmanager
def _engine(runner: TorchRunner, batch_tokens: int = 256, running: int = 8) -> Iterator[Engine]:
    engine = Engine(runner, EngineConfig(max_running=running, max_batch_tokens=batch_tokens), 1024)
    yield engine
    engine._grammar_pool.shutdown()


def _requests(count: int = 6) -> list[Submit]:
    shared = prompts(1, 40, seed=3)[0]
    many = prompts(count, 25)
    return [
        _submit(f"r{index}", (shared if index % 2 else []) + ids, SAMPLING[index % 3]) for index, ids in enumerate(many)
    ]


@pytest.fixture(scope="module")
def expected(model_dir: Path) -> dict[str, list[int]]:
    """Each request alone on a fresh runner."""
    output: dict[str, list[int]] = {}
    for request in _requests():
        with _engine(build_runner(worker_config(), model_dir)) as engine:
            output |= _run(engine, [request])
    return output


@pytest.mark.parametrize("batch_tokens", [8, 15, 16, 17, 64, 512])
def test_batches_of_any_size_give_the_same_tokens(
    model_dir: Path, expected: dict[str, list[int]], batch_tokens: int
) -> None:
    with _engine(build_runner(worker_config(), model_dir), batch_tokens) as engine:
        assert _run(engine, _requests()) == expected


@pytest.mark.parametrize("block_tokens", [16, 32, 64])
def test_block_size_changes_nothing(model_dir: Path, expected: dict[str, list[int]], block_tokens: int) -> None:
    with _engine(build_runner(worker_config(block_tokens=block_tokens), model_dir)) as engine:
        assert _run(engine, _requests()) == expected


def test_preemption_changes_nothing(model_dir: Path, expected: dict[str, list[int]]) -> None:
    runner = build_runner(worker_config(context_tokens=128, memory_bytes=14 * BLOCK_BYTES), model_dir)
    with _engine(runner, 64) as engine:
        assert _run(engine, _requests()) == expected
        assert engine.stats.preemptions > 0


def test_a_session_continues_the_same_hot_and_cold(model_dir: Path) -> None:
    first, second = prompts(2, 50)
    outputs = []
    for evict in (False, True):
        with _engine(build_runner(worker_config(), model_dir)) as engine:
            log = [*first, *_run(engine, [_submit("a", first, SAMPLING[1], "s")])["a"]]
            if evict:
                engine.handle(Evict("s"))
            continued = _run(engine, [_submit("b", log + second, SAMPLING[1], "s")])["b"]
            assert (engine.stats.hit_tokens >= len(log) - 1) is not evict
            outputs.append((log, continued))
    assert outputs[0] == outputs[1]


def test_two_ranks_give_the_tokens_of_one(model_dir: Path, expected: dict[str, list[int]], tmp_path: Path) -> None:
    with (
        tensor_parallel(worker_config(ranks=2), model_dir, tmp_path) as (runner, _),
        _engine(runner, 64) as engine,
    ):
        assert _run(engine, _requests()) == expected
