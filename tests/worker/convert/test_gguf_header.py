"""A GGUF file of which transformers would drop something is refused by its header."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.gguf_header import check_header


def _write(
    path: Path,
    architecture: str = "llama",
    scaling: str | None = None,
    tensors: tuple[str, ...] = (),
    **numbers: int,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    if scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
    for key, number in numbers.items():
        writer.add_uint32(key.replace("__", "."), number)
    for name in ("token_embd.weight", "output_norm.weight", *tensors):
        writer.add_tensor(name, np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("scaling", ["yarn", "linear", "longrope"])
def test_a_scaled_rope_is_refused(tmp_path: Path, scaling: str) -> None:
    with pytest.raises(ConvertError, match=f"m.gguf: {scaling} rope scaling is not read from GGUF files"):
        check_header(_write(tmp_path / "m.gguf", scaling=scaling))


def test_llama_3s_frequencies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="llama3 rope scaling is not read"):
        check_header(_write(tmp_path / "m.gguf", tensors=("rope_freqs.weight",)))


def test_without_a_scaling_it_is_taken(tmp_path: Path) -> None:
    assert check_header(_write(tmp_path / "plain.gguf")).tensors >= {"token_embd.weight"}
    assert check_header(_write(tmp_path / "none.gguf", scaling="none")).keys["llama.rope.scaling.type"] == "none"


def test_an_architecture_that_only_folders_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="is a smollm3 model; as GGUF files the worker runs llama, mistral"):
        check_header(_write(tmp_path / "m.gguf", "smollm3"))


@pytest.mark.parametrize("architecture", ["llama", ""])
def test_a_part_of_a_model_is_refused_with_how_to_join_the_parts(tmp_path: Path, architecture: str) -> None:
    """Rather than as incomplete, for which it would be downloaded again."""
    with pytest.raises(ConvertError, match=r"one of the 3 files of a model; join them with .* --merge"):
        check_header(_write(tmp_path / "m-00001-of-00003.gguf", architecture, llama__block_count=2, split__count=3))


def test_a_mixture_of_experts_is_refused_as_one(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="is a mixture of experts, which the worker does not run"):
        check_header(_write(tmp_path / "m.gguf", llama__block_count=2, llama__expert_count=8))


def test_a_whole_file_may_say_that_it_is_one_part_without_experts(tmp_path: Path) -> None:
    whole = _write(tmp_path / "m.gguf", llama__expert_count=0, split__count=1)
    assert check_header(whole).tensors >= {"token_embd.weight"}
