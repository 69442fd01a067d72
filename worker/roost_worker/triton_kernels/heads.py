"""From the fused projection to queries and to keys and values in their blocks, in one launch."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["blocks", "offsets"])
def write_heads(
    qkv,
    query,
    keys,
    values,
    key_scales,
    value_scales,
    query_norm,
    key_norm,
    cos,
    sin,
    query_scale,
    blocks,
    offsets,
    eps,
    block_stride,
    scale_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    DIMS: tl.constexpr,
    NORMS: tl.constexpr,
    ROTATES: tl.constexpr,
    SCALES: tl.constexpr,
):
    """Norm and rotate a token's queries and keys; store queries in `query`, keys and values in the token's block.

    A token whose block is the null block, 0, pads the batch: its keys and values are stored nowhere. Numbers are
    float32 until they are stored. The grid is [tokens].

    Args:
        qkv: [tokens, HEADS + 2 KV_HEADS, HEAD_DIM], contiguous.
        query: [tokens, HEADS, HEAD_DIM], contiguous.
        keys, values: [blocks, block_tokens, KV_HEADS, HEAD_DIM]; blocks are `block_stride` elements apart.
        key_scales, value_scales: [blocks, block_tokens, KV_HEADS] float32; blocks are `scale_stride` elements apart.
            Written where keys and values are int8.
        query_norm, key_norm: [HEAD_DIM]; read if NORMS.
        cos, sin: [tokens, HEAD_DIM], the sines signed as in `RotaryTable`; read if ROTATES.
        query_scale: [tokens]; read if SCALES.
        blocks, offsets: [tokens] int64: where the keys and values go.
        ROWS, DIMS: HEADS + 2 KV_HEADS and HEAD_DIM, rounded up to powers of two.
    """
    token = tl.program_id(0).to(tl.int64)
    heads = tl.arange(0, ROWS)[:, None]
    dims = tl.arange(0, DIMS)[None, :]
    is_dim = dims < HEAD_DIM
    is_query = (heads < HEADS) & is_dim
    is_rotated = (heads < HEADS + KV_HEADS) & is_dim
    is_value = (heads >= HEADS + KV_HEADS) & (heads < HEADS + 2 * KV_HEADS) & is_dim
    source = qkv + (token * (HEADS + 2 * KV_HEADS) + heads) * HEAD_DIM
    numbers = tl.load(source + dims, mask=is_rotated | is_value, other=0.0)
    as_projected = numbers
    numbers = numbers.to(tl.float32)
    partner = tl.where(dims < HEAD_DIM // 2, dims + HEAD_DIM // 2, dims - HEAD_DIM // 2)
    partners = tl.load(source + partner, mask=is_rotated, other=0.0).to(tl.float32)
    if NORMS:
        inverse = 1.0 / tl.sqrt(tl.sum(numbers * numbers, axis=1) / HEAD_DIM + eps)[:, None]
        numbers *= inverse * _norm_weights(query_norm, key_norm, dims, is_dim, heads < HEADS)
        partners *= inverse * _norm_weights(query_norm, key_norm, partner, is_dim, heads < HEADS)
    if ROTATES:
        cosines = tl.load(cos + token * HEAD_DIM + dims, mask=is_dim, other=0.0).to(tl.float32)
        sines = tl.load(sin + token * HEAD_DIM + dims, mask=is_dim, other=0.0).to(tl.float32)
        numbers = numbers * cosines + partners * sines
    queries = numbers
    if SCALES:
        queries *= tl.load(query_scale + token).to(tl.float32)
    tl.store(query + (token * HEADS + heads) * HEAD_DIM + dims, queries.to(query.dtype.element_ty), mask=is_query)
    block = tl.load(blocks + token)
    if block != 0:
        offset = tl.load(offsets + token)
        place = block * block_stride + offset * KV_HEADS * HEAD_DIM + dims
        key_places, value_places = place + (heads - HEADS) * HEAD_DIM, place + (heads - HEADS - KV_HEADS) * HEAD_DIM
        is_key = is_rotated & (heads >= HEADS)
        if keys.dtype.element_ty == tl.int8:
            scale_place = block * scale_stride + offset * KV_HEADS + heads - HEADS
            _store_int8(keys + key_places, key_scales + scale_place, numbers, is_key)
            values_read = as_projected.to(tl.float32)
            _store_int8(values + value_places, value_scales + scale_place - KV_HEADS, values_read, is_value)
        else:
            tl.store(keys + key_places, numbers.to(keys.dtype.element_ty), mask=is_key)
            tl.store(values + value_places, as_projected, mask=is_value)


@triton.jit
def _store_int8(places, scale_places, numbers, mask):
    """Round the rows of `numbers` [ROWS, DIMS] within `mask` as `int8_kv.rounded` does; store them and their scales."""
    numbers = tl.where(mask, numbers, 0.0)
    sizes = tl.abs(numbers)
    is_finite = tl.min((sizes < float("inf")).to(tl.int32), axis=1, keep_dims=True) > 0
    scale = tl.where(is_finite, tl.max(sizes, axis=1, keep_dims=True) / 127.0, float("nan"))
    has_steps = scale >= 1.1754944e-38  # the least normal float: a smaller one has too few digits to divide by
    steps = tl.floor(numbers / tl.where(has_steps, scale, 1.0) + 0.5)
    tl.store(places, tl.where(has_steps, steps, 0.0).to(tl.int8), mask=mask)
    is_row = tl.max(mask.to(tl.int32), axis=1, keep_dims=True) > 0
    tl.store(scale_places, scale, mask=is_row)


@triton.jit
def _norm_weights(query_norm, key_norm, dims, mask, is_query):
    """Return the weights of `dims` [1, DIMS], [ROWS, DIMS]."""
    of_queries = tl.load(query_norm + dims, mask=mask, other=0.0).to(tl.float32)
    of_keys = tl.load(key_norm + dims, mask=mask, other=0.0).to(tl.float32)
    return tl.where(is_query, of_queries, of_keys)
