"""A GGUF file of which transformers would drop something is refused by its header."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.gguf_header import check_header


def _write(path: Path, architecture: str = "llama", scaling: str | None = None, tensors: tuple[str, ...] = ()) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    if scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
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
