"""Compiles Triton's kernels for a GPU, which need not be there: `python -m triton_targets bf16 80 90`."""

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from roost_worker.triton_kernels.attention import attend_segments, attend_tiles, merge_segments
from roost_worker.triton_kernels.draw import draw_tiles, find_floors, merge_tiles
from roost_worker.triton_kernels.heads import write_heads
from roost_worker.triton_kernels.product import multiply

SIZES = {"KV_HEADS": 8, "GROUP": 2, "HEAD_DIM": 128, "DIMS": 128, "BLOCK_TOKENS": 16, "KEYS": 64}
LONG_HEADS = {"GROUP": 20, "HEAD_DIM": 256, "DIMS": 256, "KEYS": 32}
SEGMENTS = {"SEGMENTS": 64, "LEAST": 512}
HEADS = {"HEADS": 16, "HEAD_DIM": 128, "DIMS": 128}
FLAGS = {"NORMS": True, "ROTATES": True, "SCALES": True}
TILES = {"ROW_TILE": 64, "OUTPUT_TILE": 64, "INPUT_TILE": 64}
CONSTANTS: list[tuple[Any, dict[str, Any]]] = [
    (attend_tiles, SIZES | {"ROWS": 64}),
    (attend_tiles, SIZES | LONG_HEADS | {"ROWS": 64}),
    (attend_segments, SIZES | SEGMENTS | {"ROWS": 16}),
    (merge_segments, HEADS | SEGMENTS),
    (write_heads, HEADS | FLAGS | {"KV_HEADS": 8, "ROWS": 32}),
    (multiply, TILES | {"INPUTS": 1024, "OUTPUTS": 4096, "HAS_BIAS": True}),
    (find_floors, {"VOCAB": 151_936, "TILE": 4096}),
    (draw_tiles, {"VOCAB": 151_936, "TILES": 75, "TILE": 2048}),
    (merge_tiles, {"TILES": 75, "WIDTH": 128}),
]
OF_INT8 = [
    (kernel, constants) for kernel, constants in CONSTANTS if {"scales", "key_scales"}.intersection(kernel.arg_names)
]
OF_PROCESSED_LOGITS = [(kernel, constants) for kernel, constants in CONSTANTS if kernel in (find_floors, draw_tiles)]
"""Logits with penalties or a grammar are float32, whatever the model's type is."""
WHOLE_NUMBERS = ("tiles", "tables", "blocks", "offsets", "seeds", "positions", "tokens", "top_ks")
DOUBLES = ("temperatures", "top_ps", "min_ps", "best")
FLOATS = ("sums", "tops", "totals", "scales", "key_scales", "value_scales")
ROUNDED = ("weight", "keys", "values")
SCALARS = {"eps": "fp32", "scale": "fp32"}
INTEGERS = ("table_stride", "block_stride", "scale_stride", "rows")


def argument_type(name: str, dtype: str, rounded: str) -> str:
    """Of an argument that is not a constant, in Triton's words."""
    if name in ROUNDED:
        return f"*{rounded}"
    if name in WHOLE_NUMBERS:
        return "*i64"
    if name == "floors":
        return "*i32"
    if name in DOUBLES:
        return "*fp64"
    if name in FLOATS:
        return "*fp32"
    if name in INTEGERS:
        return "i32"
    return SCALARS.get(name, f"*{dtype}")


def compile_kernels(
    capability: int, dtype: str, kernels: list[tuple[Any, dict[str, Any]]], *, rounded: str = ""
) -> None:
    target = GPUTarget("cuda", capability, 32)
    for kernel, constants in kernels:
        by_dtype = {"WIDE": dtype == "fp32", "SPARE": 16 if dtype == "bf16" else 0}
        values = constants | {name: value for name, value in by_dtype.items() if name in kernel.arg_names}
        types = {
            name: "constexpr" if name in values else argument_type(name, dtype, rounded or dtype)
            for name in kernel.arg_names
        }
        compiled = triton.compile(ASTSource(kernel, types, constexprs=values), target=target)
        print(kernel.__name__, f"{compiled.metadata.shared} bytes of shared memory")


if __name__ == "__main__":
    for capability in sys.argv[2:]:
        compile_kernels(int(capability), sys.argv[1], CONSTANTS)
        compile_kernels(int(capability), "fp32", OF_PROCESSED_LOGITS)
        compile_kernels(int(capability), sys.argv[1], OF_INT8, rounded="i8")
