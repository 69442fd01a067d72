"""Decode attention over paged KV against plain attention in float64, for every folding of query heads."""

from array import array

import pytest
import torch

from roost_worker.engine.plan import Chunk
from roost_worker.model.attention import NewTokens
from roost_worker.model.attention_gathered import GatheredAttention
from roost_worker.model.batch import build_batch
from roost_worker.model.kv_cache import KvCache, KvShape

CPU = torch.device("cpu")
KV_HEADS, HEAD_DIM, BLOCK_TOKENS = 2, 16, 8
LENGTHS = (3, 8, 40, 61, 64, 65)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def _plain(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One row: query [heads, head_dim], keys and values [length, kv_heads, head_dim]."""
    group = query.shape[0] // KV_HEADS
    q, k, v = (x.double() for x in (query, keys, values))
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    weights = torch.softmax(torch.einsum("hd,lhd->hl", q, k) / HEAD_DIM**0.5, dim=-1)
    return torch.einsum("hl,lhd->hd", weights, v).reshape(-1)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5])
def test_decode_is_plain_attention(group: int, dtype: torch.dtype) -> None:
    torch.manual_seed(group)
    shape = KvShape(80, 1, BLOCK_TOKENS, KV_HEADS, HEAD_DIM)
    cache = KvCache(shape, dtype, CPU)
    cache.tensor[1:].normal_()
    blocks = iter((1 + torch.randperm(79)).tolist())
    tables = [[next(blocks) for _ in range(-(-length // BLOCK_TOKENS))] for length in LENGTHS]
    chunks = [
        Chunk(row, array("I", [0]), length - 1, array("I", table), True)
        for row, (length, table) in enumerate(zip(LENGTHS, tables, strict=True))
    ]
    query = torch.randn(len(LENGTHS), group * KV_HEADS, HEAD_DIM).to(dtype)
    unread = query.new_full((len(LENGTHS), KV_HEADS, HEAD_DIM), float("nan"))

    backend = GatheredAttention(shape, dtype, CPU)
    metadata = backend.prepare(build_batch(chunks, BLOCK_TOKENS, CPU))
    attended = backend.attend(NewTokens(query, unread, unread), cache.layers[0], metadata)

    for row, (length, table) in enumerate(zip(LENGTHS, tables, strict=True)):
        keys, values = cache.tensor[table, 0].transpose(0, 1).flatten(1, 2)[:, :length]
        expected = _plain(query[row], keys, values)
        torch.testing.assert_close(attended[row].double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
