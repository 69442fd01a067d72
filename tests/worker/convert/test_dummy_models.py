"""Dummy models: small, fast, the same every time, and with logits that leave no doubt."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from roost_worker.convert.dummy import LOGIT_STD, SPECS, VOCABULARY, DummySpec, write_model
from roost_worker.convert.errors import ConvertError
from roost_worker.convert.layout import FILES
from roost_worker.convert.shapes import expected_shapes
from roost_worker.convert.store import ModelStore
from roost_worker.model.config import read_config
from roost_worker.render.messages import Message
from roost_worker.render.renderer import Renderer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("name", SPECS)
def test_transformers_runs_it_with_spread_logits(store: ModelStore, name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    path = store.prepare(f"dummy://{name}", "float64").path
    model, loading = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    with torch.inference_mode():
        logits = model(torch.arange(256)[None]).logits
    assert logits.std() >= 3.0
    assert abs(float(logits.std()) - LOGIT_STD) < 1.0
    assert len(set(logits.argmax(-1)[0].tolist())) > 32, "a model that says the same everywhere tests nothing"


@pytest.mark.parametrize("name", SPECS)
def test_its_tensors_are_those_that_its_config_promises(store: ModelStore, name: str) -> None:
    from safetensors import safe_open

    path = store.prepare(f"dummy://{name}", "float32").path
    with safe_open(path / "model.safetensors", framework="numpy") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    assert shapes == expected_shapes(read_config(path))


def test_the_same_name_gives_the_same_model_in_every_dtype(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    first, second = ModelStore(tmp_path / "a"), ModelStore(tmp_path / "b")
    assert (
        first.prepare("dummy://llama-tiny", "float32").revision
        == second.prepare("dummy://llama-tiny", "float32").revision
    )
    weights = {
        dtype: load_file(first.prepare("dummy://llama-tiny", dtype).path / "model.safetensors")
        for dtype in ("float64", "float32", "bfloat16")
    }
    for name, exact in weights["float64"].items():
        assert weights["float32"][name].equal(exact.float())
        assert weights["bfloat16"][name].equal(exact.float().bfloat16())


def test_each_dtype_is_a_revision_of_its_own(store: ModelStore) -> None:
    revisions = {store.prepare("dummy://llama-tiny", dtype).revision for dtype in ("float64", "float32", "bfloat16")}
    assert len(revisions) == 3


def test_the_store_holds_what_architecture_promises(store: ModelStore) -> None:
    model = store.prepare("dummy://llama-tiny", "float32")
    assert model.path == store.models / model.revision
    assert {item.name for item in model.path.iterdir()} == set(FILES)
    document = json.loads((model.path / "revision.json").read_bytes())
    assert (document["revision"], document["source"], document["dtype"]) == (
        model.revision,
        "dummy://llama-tiny",
        "float32",
    )


def test_its_text_can_be_rendered(store: ModelStore) -> None:
    renderer = Renderer.from_dir(store.prepare("dummy://llama-tiny", "float32").path)
    ids = renderer.render_step(messages=[Message("user", "hi é")])
    assert bytes(index for index in ids if index < 256).decode() == "user\nhi é\nassistant\n"
    assert renderer.vocab_size == 264
    assert renderer.eos_token_ids == (258, 256)


def test_one_has_another_vocabulary(store: ModelStore) -> None:
    plain, pairs = (
        Renderer.from_dir(store.prepare(f"dummy://llama-tiny{name}", "float32").path) for name in ("", "-pairs")
    )
    assert plain.vocabulary.control == pairs.vocabulary.control
    assert list(pairs.vocabulary.encode_content("then")) == [259, ord("e"), ord("n")]
    assert list(plain.vocabulary.encode_content("then")) == list(b"then")


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from roost_worker.convert.store import ModelStore;"
        f"ModelStore(Path({str(tmp_path)!r})).prepare('dummy://llama-tiny', 'bfloat16');"
        "print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_refused_with_the_known_ones(store: ModelStore) -> None:
    with pytest.raises(ConvertError, match="use one of llama-tiny, "):
        store.prepare("dummy://huge", "float32")
    assert not list(store.models.glob(".making-*"))


def test_a_larger_vocabulary_is_ids_without_a_token(tmp_path: Path) -> None:
    from safetensors import safe_open

    write_model("wide", DummySpec(vocabulary=300), "float32", tmp_path)
    config = read_config(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        rows = {file.get_slice(name).get_shape()[0] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    assert (rows, config.vocab_size) == ({300}, 300)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size() < VOCABULARY
