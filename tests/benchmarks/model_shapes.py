"""Random weights in the shapes of real models, for what is measured where no model can be fetched.

    .venv/bin/python tests/benchmarks/model_shapes.py smollm2-135m /tmp/model

Speed depends on shapes, not on what the weights say. The folder is one of the model store's, in bfloat16.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("proto", "worker")]

from roost_worker.convert.dummy import SPECS, DummySpec, write_model

SHAPES = SPECS | {
    # https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json
    "qwen3-0.6b": DummySpec(
        model_type="qwen3",
        layers=28,
        hidden=1024,
        intermediate=3072,
        heads=16,
        kv_heads=8,
        head_dim=128,
        tied=True,
        rope_theta=1e6,
        query_key_norm=True,
        context=40960,
        vocabulary=151936,
    ),
    # https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct/blob/main/config.json
    "smollm2-135m": DummySpec(
        layers=30,
        hidden=576,
        intermediate=1536,
        heads=9,
        kv_heads=3,
        head_dim=64,
        tied=True,
        rope_theta=1e5,
        vocabulary=49152,
    ),
}


def write_shape(name: str, folder: Path) -> None:
    """Write random weights in the shape `name` of `SHAPES`. The largest takes 40 s and 6 GB of memory."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(name, SHAPES[name], "bfloat16", folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write_shape(arguments.shape, arguments.folder)


if __name__ == "__main__":
    main()
