"""What `bench_quantization.py` rounds to."""

from array import array
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tried_formats import LARGEST, Rounding, TriedFormat, to_e4m3, to_e4m3_without_scales, to_int8

from roost_worker.engine.plan import BatchPlan, Chunk
from roost_worker.model.linear import Linears
from roost_worker.model.runner import build_runner
from runner_driver import dummy_dir, on_cpu, worker_config


def test_e4m3_keeps_a_rows_largest_number_and_three_bits_of_the_others() -> None:
    rows = torch.tensor([[-7.0, 3.3, 0.001, 0.0], [0.0, 0.0, 0.0, 0.0]])
    rounded = to_e4m3(rows)
    assert (rounded[:, 0].tolist(), rounded[1].abs().sum().item()) == ([-7.0, 0.0], 0)
    assert (rounded - rows).abs().le(rows.abs() / 16).all()
    assert not torch.equal(rounded, rows)


def test_e4m3_without_scales_ends_at_its_largest_number() -> None:
    assert to_e4m3_without_scales(torch.tensor([1.0, 17.0, -1e4])).tolist() == [1.0, 16.0, -LARGEST]


@pytest.mark.parametrize("rounding", [to_e4m3, to_int8])
def test_weights_and_activations_are_rounded_while_it_is_in_use(rounding: Rounding) -> None:
    weight, x = torch.randn(24, 32), torch.randn(5, 32)
    with TriedFormat(weights=rounding).in_use():
        by_weights = Linears().of(weight)
    with TriedFormat(weights=rounding, activations=rounding).in_use():
        by_both = Linears().of(weight)
    torch.testing.assert_close(by_weights(x), x @ rounding(weight).T)
    torch.testing.assert_close(by_both(x), rounding(x) @ rounding(weight).T)
    torch.testing.assert_close(Linears().of(weight)(x), x @ weight.T)


def test_keys_and_values_are_rounded_before_they_are_kept(tmp_path: Path) -> None:
    config = worker_config("float32")
    config = replace(config, engine=replace(config.engine, kernels="torch"))
    with on_cpu(), TriedFormat(kv=to_e4m3_without_scales).in_use():
        runner = build_runner(config, dummy_dir("llama-tiny", tmp_path, "float32"))
        runner.forward(BatchPlan((Chunk(0, array("I", range(1, 9)), 0, array("I", [1]), sample=True),)))
    kept = runner._cache.tensor[1, :, :, :8]
    assert kept.abs().amax(dim=-1).gt(0).all()
    assert torch.equal(kept, to_e4m3_without_scales(kept))
