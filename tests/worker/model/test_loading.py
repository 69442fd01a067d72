"""Weights that cannot be used, and KV memory that does not suffice, are refused with the reason."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from roost_worker.model.config import ModelConfigError
from roost_worker.model.kv_cache import KvShape, PagedKvCache, blocks_that_fit
from roost_worker.model.loader import WeightsError
from roost_worker.model.runner import build_runner
from runner_driver import dummy_dir, on_cpu, worker_config


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return dummy_dir("llama-tiny", tmp_path)


def _edit_config(model_dir: Path, **changes: Any) -> None:
    path = model_dir / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_missing_weights_say_how_to_get_them(model_dir: Path) -> None:
    (model_dir / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="roost model prepare"):
        build_runner(worker_config(), model_dir)


@pytest.mark.parametrize("damage", ["truncated", "another format", "empty"])
def test_a_damaged_file_is_refused(model_dir: Path, damage: str) -> None:
    path = model_dir / "model.safetensors"
    contents = {"truncated": path.read_bytes()[:-100], "another format": b"GGUF" + bytes(5000), "empty": b""}
    path.write_bytes(contents[damage])
    with pytest.raises(WeightsError, match="not a usable safetensors file"):
        build_runner(worker_config(), model_dir)


def test_a_missing_tensor_is_named(model_dir: Path) -> None:
    path = model_dir / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"tensor model.layers.1.self_attn.k_proj.weight is missing"):
        build_runner(worker_config(), model_dir)


def test_a_tensor_of_another_shape_is_named(model_dir: Path) -> None:
    _edit_config(model_dir, intermediate_size=96)
    with pytest.raises(WeightsError, match=r"gate_proj.weight has shape \(192, 64\), but config.json says \(96, 64\)"):
        build_runner(worker_config(), model_dir)


def test_weights_of_another_dtype_are_converted(model_dir: Path) -> None:
    runner = build_runner(worker_config("float32"), model_dir)
    assert runner._cache.tensor.dtype == torch.float32


def test_memory_for_less_than_one_context_is_refused_with_the_bytes_needed(model_dir: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"hold 496 tokens, .* contextTokens 1024 needs 1064960 bytes"):
        build_runner(worker_config(memory_bytes=512 << 10), model_dir)
    assert build_runner(worker_config(memory_bytes=1064960), model_dir).info.num_blocks == 65


def test_memory_holds_nearly_twice_as_many_tokens_in_int8(model_dir: Path) -> None:
    config = worker_config("bfloat16")
    plain, rounded = (
        build_runner(replace(config, kv=replace(config.kv, dtype=dtype)), model_dir).info for dtype in ("auto", "int8")
    )
    head_dim = 8
    assert plain.bytes_per_block * (head_dim + 4) == rounded.bytes_per_block * 2 * head_dim
    assert rounded.num_blocks == plain.num_blocks * 2 * head_dim // (head_dim + 4)


def test_automatic_memory_holds_at_least_one_context(model_dir: Path) -> None:
    with on_cpu():
        info = build_runner(worker_config(memory_bytes=None), model_dir).info
    assert (info.num_blocks - 1) * info.block_tokens >= 1024
    assert info.num_blocks * info.bytes_per_block <= 4 << 30


def test_one_null_block_comes_on_top() -> None:
    assert blocks_that_fit(300, 100, 16, 32) == 3
    with pytest.raises(ModelConfigError, match="needs 300 bytes"):
        blocks_that_fit(299, 100, 16, 32)


def test_a_block_is_one_contiguous_run_with_all_its_layers() -> None:
    cache = PagedKvCache(KvShape(4, 3, 16, 2, 8), torch.float32, torch.device("cpu"))
    assert cache.tensor.shape == (4, 3, 2, 16, 2, 8)
    assert cache.tensor[1].is_contiguous()
    assert not cache.tensor.any()


def test_layers_write_into_the_one_tensor() -> None:
    cache = PagedKvCache(KvShape(4, 3, 16, 2, 8), torch.float32, torch.device("cpu"))
    blocks, offsets = torch.tensor([2, 3]), torch.tensor([5, 0])
    cache.layers[1].write(blocks, offsets, torch.full((2, 2, 8), 1.0), torch.full((2, 2, 8), 2.0))
    assert cache.tensor[2, 1, 0, 5].eq(1.0).all()
    assert cache.tensor[3, 1, 1, 0].eq(2.0).all()
    assert cache.tensor.count_nonzero() == 4 * 16
