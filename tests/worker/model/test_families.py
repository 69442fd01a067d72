"""Every family of the decoder against transformers, on tiny random models."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roost_worker.convert.dummy import SPECS
from roost_worker.model.runner import build_runner
from runner_driver import Driver, biased_dir, dummy_dir, prompts, worker_config

# The oracle computes norms, softmax and rotary angles in float32 whatever the model's dtype is.
TOLERANCE = 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", [*sorted(SPECS), "biased"])
def test_distributions_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model_dir = biased_dir(tmp_path) if name == "biased" else dummy_dir(name, tmp_path)
    driver = Driver(build_runner(worker_config(context_tokens=4096), model_dir))
    # Longer than the context that Llama 3's rope scaling starts from.
    row = driver.open(prompts(1, 1500)[0])
    driver.generate([row], 8, chunk=400)
    oracle = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    with torch.inference_mode():
        logits = oracle(torch.tensor([row.ids])).logits[0].log_softmax(-1)
    assert logits.std() > 3
    np.testing.assert_allclose(row.logprobs, logits[-9:-1].numpy(), rtol=0, atol=TOLERANCE)
