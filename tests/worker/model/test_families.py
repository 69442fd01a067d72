"""Every family of the decoder, and every feature of a config, against transformers on tiny random models in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

from feature_models import FEATURES, ORIGINAL, STRETCHED, feature_dir
from roost_worker.convert.dummy import SPECS
from roost_worker.model.runner import build_runner
from runner_driver import Driver, Row, dummy_dir, prompts, worker_config

# The oracle computes norms, softmax and rotary angles in float32 whatever the model's dtype is.
TOLERANCE = 1e-3
OUTPUT = 8
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def _assert_as_transformers(model_dir: Path, row: Row) -> None:
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    with torch.inference_mode():
        logits = oracle(torch.tensor([row.ids])).logits[0].log_softmax(-1)
    assert logits.std() > 3
    np.testing.assert_allclose(row.logprobs, logits[-1 - OUTPUT : -1].numpy(), rtol=0, atol=TOLERANCE)


def _generated(model_dir: Path, tokens: int, context_tokens: int) -> Row:
    """Return a row of `tokens`, its output among them."""
    driver = Driver(build_runner(worker_config(context_tokens=context_tokens), model_dir))
    row = driver.open(prompts(1, tokens - OUTPUT)[0])
    driver.generate([row], OUTPUT, chunk=400)
    return row


@pytest.mark.parametrize("name", sorted(SPECS))
def test_distributions_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model_dir = dummy_dir(name, tmp_path)
    # Longer than the context that Llama 3's rope scaling starts from.
    _assert_as_transformers(model_dir, _generated(model_dir, 1508, context_tokens=4096))


@pytest.mark.parametrize("name", FEATURES)
def test_features_agree_at_four_times_the_original_context(name: str, tmp_path: Path) -> None:
    model_dir = feature_dir(name, tmp_path)
    _assert_as_transformers(model_dir, _generated(model_dir, STRETCHED, context_tokens=STRETCHED))


@pytest.mark.parametrize("name", ["dynamic", "yarn", "ministral3"])
def test_scalings_agree_within_the_original_context(name: str, tmp_path: Path) -> None:
    model_dir = feature_dir(name, tmp_path)
    _assert_as_transformers(model_dir, _generated(model_dir, ORIGINAL, context_tokens=ORIGINAL))


@pytest.mark.parametrize("name", ["dynamic", "yarn", "smollm3", "ministral3"])
def test_a_rebuilt_cache_gives_what_decoding_gave(name: str, tmp_path: Path) -> None:
    """Also where a sequence grows beyond the original context, from which on transformers rotates otherwise."""
    model_dir = feature_dir(name, tmp_path)
    driver = Driver(build_runner(worker_config(context_tokens=STRETCHED), model_dir))
    decoded = driver.open(prompts(1, ORIGINAL - OUTPUT // 2)[0])
    driver.generate([decoded], OUTPUT)
    for drawn in range(OUTPUT):
        rebuilt = driver.open(decoded.ids[: len(decoded.ids) - OUTPUT + drawn])
        driver.generate([rebuilt], 1)
        np.testing.assert_allclose(rebuilt.logprobs[0], decoded.logprobs[drawn], rtol=0, atol=1e-9)
