"""Matrix products whose bits do not depend on the batch."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def multiply(
    x,
    weight,
    scales,
    bias,
    out,
    rows,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROW_TILE: tl.constexpr,
    OUTPUT_TILE: tl.constexpr,
    INPUT_TILE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Compute a tile of x @ weight.T + bias. The grid is [tiles of rows, tiles of outputs].

    Tiles have one shape whatever the batch's size, and inputs are added up in their order; so each row's result depends
    on that row only (Thinking Machines Lab, 2025, "Defeating Nondeterminism in LLM Inference").

    Args:
        x: [rows, INPUTS], contiguous.
        weight: [OUTPUTS, INPUTS], contiguous; int8, or what x is.
        scales: [OUTPUTS] float32, of the weights of each output; read if these are int8.
        bias: [OUTPUTS]; read if HAS_BIAS.
        out: [rows, OUTPUTS], contiguous.
        WIDE: multiply in float32. Sums are float32 in any case.
    """
    row = tl.program_id(0) * ROW_TILE + tl.arange(0, ROW_TILE)
    output = tl.program_id(1) * OUTPUT_TILE + tl.arange(0, OUTPUT_TILE)
    is_row, is_output = row < rows, output < OUTPUTS
    row_places = row.to(tl.int64)[:, None]
    summed = tl.zeros([ROW_TILE, OUTPUT_TILE], tl.float32)
    for first in range(0, INPUTS, INPUT_TILE):
        place = first + tl.arange(0, INPUT_TILE)
        is_input = place < INPUTS
        inputs = tl.load(x + row_places * INPUTS + place[None, :], mask=is_row[:, None] & is_input[None, :], other=0.0)
        weights = tl.load(
            weight + output.to(tl.int64)[None, :] * INPUTS + place[:, None],
            mask=is_input[:, None] & is_output[None, :],
            other=0,
        )
        if WIDE:
            inputs = inputs.to(tl.float32)
        weights = weights.to(inputs.dtype)
        summed = tl.dot(inputs, weights, summed, input_precision="ieee")
    if weight.dtype.element_ty == tl.int8:
        summed *= tl.load(scales + output, mask=is_output, other=0.0)[None, :]
    if HAS_BIAS:
        summed += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[None, :]
    mask = is_row[:, None] & is_output[None, :]
    tl.store(out + row_places * OUTPUTS + output[None, :], summed.to(out.dtype.element_ty), mask=mask)
