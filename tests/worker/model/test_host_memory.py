"""KV that went to host memory comes back bit for bit, on every rank, or is computed again."""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from follower_rank import tensor_parallel
from roost_worker.config import EngineConfig, KvDtype, WorkerConfig
from roost_worker.engine import host_tier
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import Evict, SamplingParams, Submit
from roost_worker.engine.plan import BatchPlan, HostCopy
from roost_worker.model.config import ModelConfigError
from roost_worker.model.host_kv import _host_memory
from roost_worker.model.kv_cache import host_slots
from roost_worker.model.runner import TorchRunner, build_runner
from runner_driver import dummy_dir, prompts, worker_config

BLOCK = 16
CONTEXT = 256
BLOCK_BYTES = {"bfloat16": 4096, "float64": 16384}
"""Bytes of a block of the tiny model."""


class Sessions:
    """Runs steps of sessions on an engine over a runner."""

    def __init__(self, runner: TorchRunner) -> None:
        self.runner = runner
        self.engine = Engine(runner, EngineConfig(4, 64), CONTEXT)
        self._count = 0

    def step(self, session: str, ids: Sequence[int], tokens: int = 12) -> tuple[list[int], int]:
        """Returns the output of a step and how many tokens of its context were cached."""
        self._count += 1
        sampling = SamplingParams(max_tokens=tokens)
        self.engine.handle(Submit(f"r{self._count}", array("I", ids), len(ids), sampling, b"tenant", session))
        output: list[int] = []
        cached = 0
        while outputs := self.engine.iterate():
            for answer in outputs.outputs:
                output += answer.token_ids
                cached = answer.cached_tokens or cached
        self.engine.check_integrity()
        return output, cached

    def crowd_out(self) -> None:
        """Fills the device with other sessions, then drops them."""
        for number in range(2):
            self.step(f"crowd-{number}", prompts(1, CONTEXT - 20, seed=7 + number)[0])
        for number in range(2):
            self.engine.handle(Evict(f"crowd-{number}"))
        while self.engine.iterate():
            pass

    def kv(self, session: str, tokens: int) -> torch.Tensor:
        """This rank's KV of a parked session's first tokens, whole blocks."""
        parked = self.engine._cache.parked.get(session)
        assert parked is not None
        return self.runner._cache.tensor[list(parked.blocks[: tokens // BLOCK])].clone()


def config_of(dtype: str = "float64", *, ranks: int = 1, host_slots: int = 64) -> WorkerConfig:
    """A config whose KV memory holds little more than one full context."""
    block_bytes = BLOCK_BYTES[dtype]
    return worker_config(
        dtype,
        context_tokens=CONTEXT,
        block_tokens=BLOCK,
        memory_bytes=18 * block_bytes,
        host_memory_bytes=host_slots * block_bytes,
        ranks=ranks,
    )


@pytest.fixture(autouse=True)
def copies_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a busy machine measures, copies are kept and restored."""
    monkeypatch.setattr(host_tier, "copying_pays", lambda *_rates: True)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return dummy_dir("llama-tiny", tmp_path)


def continued(sessions: Sessions, *, warm: bool) -> tuple[list[int], int, torch.Tensor]:
    """Output, cached tokens and KV of a session's second step, after it went to host memory if `warm`."""
    prompt = prompts(1, 6 * BLOCK)[0]
    first, _ = sessions.step("s", prompt, tokens=2 * BLOCK + 1)
    if warm:
        sessions.crowd_out()
    output, cached = sessions.step("s", [*prompt, *first, 5, 6])
    return output, cached, sessions.kv("s", 8 * BLOCK)


@pytest.mark.parametrize(("dtype", "kv_dtype"), [("bfloat16", "auto"), ("float64", "auto"), ("bfloat16", "int8")])
def test_a_restored_session_goes_on_token_for_token_with_the_same_kv(
    dtype: str, kv_dtype: KvDtype, tmp_path: Path
) -> None:
    model_dir, config = dummy_dir("llama-tiny", tmp_path, dtype), config_of(dtype)
    config = replace(config, kv=replace(config.kv, dtype=kv_dtype))
    expected, hot_cached, kv = continued(Sessions(build_runner(config, model_dir)), warm=False)
    sessions = Sessions(build_runner(config, model_dir))
    output, cached, restored_kv = continued(sessions, warm=True)
    assert output == expected
    assert torch.equal(restored_kv.view(torch.uint8), kv.view(torch.uint8))
    assert hot_cached == cached == 8 * BLOCK
    assert sessions.engine.stats.restored_blocks == 8


def test_a_flipped_bit_is_detected_and_the_block_computed_again(model_dir: Path) -> None:
    expected, _, _ = continued(Sessions(build_runner(config_of(), model_dir)), warm=False)
    sessions = Sessions(build_runner(config_of(), model_dir))
    prompt = prompts(1, 6 * BLOCK)[0]
    first, _ = sessions.step("s", prompt, tokens=2 * BLOCK + 1)
    sessions.crowd_out()
    tier = sessions.engine._cache.host
    slot = tier.slots.get(tier._chains._chains["s"][3])
    assert slot is not None
    sessions.runner._host.tensor[slot].view(torch.uint8).view(-1)[1000] ^= 64
    output, cached = sessions.step("s", [*prompt, *first, 5, 6])
    assert output == expected
    assert cached == 3 * BLOCK
    assert sessions.engine.stats.corrupted_blocks == 1


def test_every_rank_keeps_and_restores_its_part(model_dir: Path, tmp_path: Path) -> None:
    expected, _, kv = continued(Sessions(build_runner(config_of(), model_dir)), warm=False)
    with tensor_parallel(config_of(ranks=2), model_dir, tmp_path) as (runner, _):
        sessions = Sessions(runner)
        output, cached, part = continued(sessions, warm=True)
    torch.testing.assert_close(part, kv[..., : kv.shape[-2] // 2, :], rtol=0, atol=1e-12)
    assert output == expected
    assert cached == 8 * BLOCK
    assert sessions.engine.stats.restored_blocks == 8


def test_a_block_that_one_rank_finds_corrupted_is_computed_again_on_all(model_dir: Path, tmp_path: Path) -> None:
    expected, _, _ = continued(Sessions(build_runner(config_of(), model_dir)), warm=False)
    with tensor_parallel(config_of(ranks=2), model_dir, tmp_path, corrupts=True) as (runner, _):
        sessions = Sessions(runner)
        output, cached, _ = continued(sessions, warm=True)
    assert output == expected
    assert cached == 0
    assert sessions.engine.stats.corrupted_blocks > 0
    assert sessions.engine.stats.restored_blocks == 0


def test_a_rank_that_dies_breaks_the_batch_that_restores(model_dir: Path, tmp_path: Path) -> None:
    with tensor_parallel(config_of(ranks=2), model_dir, tmp_path) as (runner, followers):
        runner.run(BatchPlan((), copies=(HostCopy(1, 0),)))
        followers[0].kill()
        followers[0].wait()
        with pytest.raises(RuntimeError):
            runner.run(BatchPlan((), copies=(HostCopy(2, 0, restore=True),)))


def test_copies_are_made_in_the_order_of_the_plan(model_dir: Path) -> None:
    """A block goes out, comes back elsewhere, and another one takes its slot."""
    runner = build_runner(config_of(), model_dir)
    kv = runner._cache.tensor
    kv[1], kv[2] = 1.0, 2.0
    copies = (HostCopy(1, 0), HostCopy(3, 0, restore=True), HostCopy(2, 0), HostCopy(1, 0, restore=True))
    result = runner.run(BatchPlan((), copies=copies))
    assert result.intact == (True, True)
    assert result.copy_seconds > 0
    assert [float(kv[block].float().mean()) for block in (1, 2, 3)] == [2.0, 2.0, 1.0]


def play_cuda_runtime(monkeypatch: pytest.MonkeyPatch, error: int = 0) -> dict[int, int]:
    """Stands in for the CUDA runtime. Returns the bytes that are pinned, by address."""
    pinned: dict[int, int] = {}

    def register(address: int, size: int, _flags: int) -> object:
        pinned[address] = size
        return torch._C._cudart.cudaError(error)

    runtime = SimpleNamespace(cudaHostRegister=register, cudaHostUnregister=pinned.pop)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    return pinned


def test_just_the_bytes_of_host_memory_are_pinned_and_not_longer_than_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pinned = play_cuda_runtime(monkeypatch)
    memory = _host_memory((3, 100), torch.float32, pinned=True)
    assert pinned == {memory.data_ptr(): 3 * 100 * 4}
    assert not memory.any()
    del memory
    assert not pinned


def test_memory_that_cannot_be_pinned_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    play_cuda_runtime(monkeypatch, error=2)
    with pytest.raises(ModelConfigError, match=r"kvCache.hostMemory: .*out of memory.*; lower it, or give the worker"):
        _host_memory((3, 100), torch.float32, pinned=True)


def test_host_memory_that_holds_no_block_is_refused_with_the_fix(model_dir: Path) -> None:
    with pytest.raises(
        ModelConfigError, match=r"kvCache.hostMemory: 100 bytes do not hold one block of 16384 bytes; raise"
    ):
        build_runner(worker_config(host_memory_bytes=100), model_dir)
    assert build_runner(worker_config(), model_dir).info.host_slots == 0


def test_more_host_memory_than_is_free_is_refused_with_the_fix(model_dir: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"kvCache.hostMemory: \d+ bytes are more than .* lower it, or"):
        build_runner(worker_config(host_memory_bytes=1 << 60), model_dir)


@pytest.mark.skipif(torch.cuda.is_available(), reason="KV memory is host memory on a CPU only")
def test_host_memory_has_to_be_free_beside_the_kv_memory_of_a_cpu(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(host_slots=64)
    monkeypatch.setattr("roost_worker.model.runner.free_host_memory", lambda: (18 + 64) * BLOCK_BYTES["float64"])
    assert build_runner(config, model_dir).info.host_slots == 64
    monkeypatch.setattr("roost_worker.model.runner.free_host_memory", lambda: (18 + 64) * BLOCK_BYTES["float64"] - 1)
    with pytest.raises(ModelConfigError, match=r"kvCache.hostMemory: .* are free beside weights and KV memory; lower"):
        build_runner(config, model_dir)


def test_the_parts_of_all_ranks_have_to_be_free() -> None:
    assert host_slots(memory=80, block_bytes=20, free=80) == 4
    with pytest.raises(ModelConfigError, match="80 bytes are more than the 79 bytes that are free"):
        host_slots(memory=80, block_bytes=20, free=79)
