"""Causal grouped-query attention over paged KV, which is read where it lies (Kwon et al., 2023, PagedAttention).

Softmax is computed as the keys come, a tile at a time (Dao et al., 2022, FlashAttention). The queries of the heads that
share a KV head are rows of one product. Decode rows divide their keys into at most SEGMENTS segments, which are
attended to at the same time and merged by `merge_segments` (Dao et al., 2023, Flash-Decoding).

Tiles of queries are rows of a table, [tiles, 4] int64: the batch's row of the first token; how many tokens, 0 for a
tile that pads the batch; the first token's position; and the row of its sequence in the block tables. Block tables are
[sequences, blocks] int64, `table_stride` apart. Keys and values are [blocks, BLOCK_TOKENS, KV_HEADS, HEAD_DIM], blocks
`block_stride` elements apart. Where they are int8, each has a scale in `key_scales` or `value_scales`, [blocks,
BLOCK_TOKENS, KV_HEADS] float32, blocks `scale_stride` elements apart; otherwise these are not read. Queries and outputs
are [tokens, heads, HEAD_DIM], contiguous, with GROUP heads to a KV head.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["table_stride"], do_not_specialize_on_alignment=["tiles", "tables"])
def attend_tiles(
    query,
    keys,
    values,
    key_scales,
    value_scales,
    out,
    tiles,
    tables,
    table_stride,
    block_stride,
    scale_stride,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Attend with one tile's queries to all keys up to each. The grid is [tiles, KV_HEADS].

    An output's bits depend on its query and its sequence's keys and values only, whatever else is in the tile.

    Args:
        scale: of the scores, for exponentials of base 2.
        ROWS: GROUP x the most tokens of a tile fit in; a power of two, 16 or more.
        KEYS: keys of a tile of keys, a power of two, 16 or more.
        WIDE: multiply in float32.
    """
    tile = tiles + tl.program_id(0) * 4
    kv_head = tl.program_id(1)
    row, tokens, position = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    if tokens > 0:
        table = tables + tl.load(tile + 3) * table_stride
        rows = tl.arange(0, ROWS)
        dims = tl.arange(0, DIMS)
        is_row = rows // GROUP < tokens
        mask = is_row[:, None] & (dims < HEAD_DIM)[None, :]
        heads = (row + rows // GROUP) * (KV_HEADS * GROUP) + kv_head * GROUP + rows % GROUP
        queries = tl.load(query + heads[:, None] * HEAD_DIM + dims[None, :], mask=mask, other=0.0)
        positions = tl.where(is_row, position + rows // GROUP, -1)
        summed, _, total = _attend(
            queries, positions, keys, values, key_scales, value_scales, table, kv_head, block_stride, scale_stride,
            scale, 0, position + tokens,
            KV_HEADS, HEAD_DIM, DIMS, BLOCK_TOKENS, ROWS, KEYS, WIDE,
        )  # fmt: skip
        result = summed / tl.where(is_row, total, 1.0)[:, None]
        tl.store(out + heads[:, None] * HEAD_DIM + dims[None, :], result.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["table_stride"], do_not_specialize_on_alignment=["tiles", "tables"])
def attend_segments(
    query,
    keys,
    values,
    key_scales,
    value_scales,
    sums,
    tops,
    totals,
    tiles,
    tables,
    table_stride,
    block_stride,
    scale_stride,
    scale,
    SEGMENTS: tl.constexpr,
    LEAST: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Attend with one tile's only token to one segment of its keys. The grid is [tiles, KV_HEADS, SEGMENTS].

    Args:
        sums: [tiles, heads, SEGMENTS, HEAD_DIM] float32, of the values, weighted.
        tops, totals: [tiles, heads, SEGMENTS] float32: the largest score, and the sum of the weights.
        LEAST: keys of a segment at least, if there are as many.
        scale, ROWS, KEYS, WIDE: as in `attend_tiles`; ROWS holds GROUP.
    """
    tile = tiles + tl.program_id(0) * 4
    kv_head = tl.program_id(1)
    segment = tl.program_id(2)
    row, tokens, position = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    size = _segment_keys(position, SEGMENTS, LEAST)
    begin = segment * size
    if (tokens > 0) & (begin <= position):
        table = tables + tl.load(tile + 3) * table_stride
        rows = tl.arange(0, ROWS)
        dims = tl.arange(0, DIMS)
        is_row = rows < GROUP
        mask = is_row[:, None] & (dims < HEAD_DIM)[None, :]
        heads = kv_head * GROUP + rows
        source = query + (row * (KV_HEADS * GROUP) + heads)[:, None] * HEAD_DIM + dims[None, :]
        queries = tl.load(source, mask=mask, other=0.0)
        positions = tl.where(is_row, position, -1)
        end = tl.minimum(begin + size, position + 1)
        summed, top, total = _attend(
            queries, positions, keys, values, key_scales, value_scales, table, kv_head, block_stride, scale_stride,
            scale, begin, end,
            KV_HEADS, HEAD_DIM, DIMS, BLOCK_TOKENS, ROWS, KEYS, WIDE,
        )  # fmt: skip
        place = (tl.program_id(0).to(tl.int64) * (KV_HEADS * GROUP) + heads) * SEGMENTS + segment
        tl.store(sums + place[:, None] * HEAD_DIM + dims[None, :], summed, mask=mask)
        tl.store(tops + place, top, mask=is_row)
        tl.store(totals + place, total, mask=is_row)


@triton.jit(do_not_specialize_on_alignment=["tiles"])
def merge_segments(
    sums,
    tops,
    totals,
    out,
    tiles,
    SEGMENTS: tl.constexpr,
    LEAST: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
):
    """Merge what `attend_segments` computed for one tile's token and one head. The grid is [tiles, HEADS]."""
    tile = tiles + tl.program_id(0) * 4
    head = tl.program_id(1)
    row, tokens, position = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    if tokens > 0:
        dims = tl.arange(0, DIMS)
        inside = dims < HEAD_DIM
        place = (tl.program_id(0).to(tl.int64) * HEADS + head) * SEGMENTS
        summed = tl.load(sums + place * HEAD_DIM + dims, mask=inside, other=0.0)
        top, total = tl.load(tops + place), tl.load(totals + place)
        for segment in range(1, position // _segment_keys(position, SEGMENTS, LEAST) + 1):
            other_top = tl.load(tops + place + segment)
            highest = tl.maximum(top, other_top)
            own, other = tl.exp2(top - highest), tl.exp2(other_top - highest)
            other_summed = tl.load(sums + (place + segment) * HEAD_DIM + dims, mask=inside, other=0.0)
            summed = summed * own + other_summed * other
            total = total * own + tl.load(totals + place + segment) * other
            top = highest
        result = (summed / total).to(out.dtype.element_ty)
        tl.store(out + (row * HEADS + head) * HEAD_DIM + dims, result, mask=inside)


@triton.jit
def _segment_keys(position, SEGMENTS: tl.constexpr, LEAST: tl.constexpr):
    """Return how many keys each segment of a row has, but for its last: the row's own length alone decides."""
    return tl.maximum(LEAST, tl.cdiv(position + 1, SEGMENTS))


@triton.jit
def _attend(
    queries,
    positions,
    keys,
    values,
    key_scales,
    value_scales,
    table,
    kv_head,
    block_stride,
    scale_stride,
    scale,
    begin,
    end,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Return weighted sums of the values [ROWS, DIMS], largest scores and sums of weights [ROWS] of keys begin .. end.

    A query at a position attends to the keys up to there; to none if it is -1.
    """
    dims = tl.arange(0, DIMS)
    is_dim = dims < HEAD_DIM
    if WIDE:
        queries = queries.to(tl.float32)
    summed = tl.zeros([ROWS, DIMS], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    for start in range(begin, end, KEYS):
        places = start + tl.arange(0, KEYS)
        is_key = places < end
        block = tl.load(table + places // BLOCK_TOKENS, mask=is_key, other=0)
        token = block * block_stride + ((places % BLOCK_TOKENS) * KV_HEADS + kv_head) * HEAD_DIM
        address = token[:, None] + dims[None, :]
        mask = is_key[:, None] & is_dim[None, :]
        tile_keys = tl.load(keys + address, mask=mask, other=0)
        tile_values = tl.load(values + address, mask=mask, other=0)
        if keys.dtype.element_ty == tl.int8:
            place = block * scale_stride + (places % BLOCK_TOKENS) * KV_HEADS + kv_head
            tile_keys = _restored(tile_keys, key_scales + place, is_key, queries.dtype)
            tile_values = _restored(tile_values, value_scales + place, is_key, queries.dtype)
        elif WIDE:
            tile_keys, tile_values = tile_keys.to(tl.float32), tile_values.to(tl.float32)
        scores = tl.dot(queries, tl.trans(tile_keys), input_precision="ieee") * scale
        scores = tl.where(is_key[None, :] & (places[None, :] <= positions[:, None]), scores, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, axis=1))
        reference = tl.where(highest == float("-inf"), 0.0, highest)
        kept = tl.exp2(top - reference)
        weights = tl.exp2(scores - reference[:, None])
        total = total * kept + tl.sum(weights, axis=1)
        product = tl.dot(weights.to(tile_values.dtype), tile_values, input_precision="ieee")
        summed = summed * kept[:, None] + product
        top = highest
    return summed, top, total


@triton.jit
def _restored(numbers, scales, is_key, dtype: tl.constexpr):
    """Return int8 numbers [KEYS, DIMS] times their scales in `dtype`."""
    scale = tl.load(scales, mask=is_key, other=0.0)
    return (numbers.to(tl.float32) * scale[:, None]).to(dtype)
