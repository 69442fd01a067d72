"""Decode attention over paged KV against the plain backend in float64, for every folding of query heads."""

from array import array

import pytest
import torch

from reference_attention import ReferenceAttention
from roost_worker.engine.plan import Chunk
from roost_worker.model.attention import NewTokens
from roost_worker.model.attention_gathered import GatheredAttention
from roost_worker.model.batch import build_batch
from roost_worker.model.kv_cache import KvShape, LayerKv, PagedKvCache

CPU = torch.device("cpu")
KV_HEADS, HEAD_DIM, BLOCK_TOKENS = 2, 16, 8
LENGTHS = (3, 8, 40, 61, 64, 65)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5])
def test_decode_is_the_plain_backends(group: int, dtype: torch.dtype) -> None:
    torch.manual_seed(group)
    shape = KvShape(80, 1, BLOCK_TOKENS, KV_HEADS, HEAD_DIM)
    cache = PagedKvCache(shape, dtype, CPU)
    cache.tensor[1:].normal_()
    blocks = iter((1 + torch.randperm(79)).tolist())
    tables = [[next(blocks) for _ in range(-(-length // BLOCK_TOKENS))] for length in LENGTHS]
    chunks = [
        Chunk(row, array("I", [0]), length - 1, array("I", table), True)
        for row, (length, table) in enumerate(zip(LENGTHS, tables, strict=True))
    ]
    query = torch.randn(len(LENGTHS), group * KV_HEADS, HEAD_DIM).to(dtype)
    unread = query.new_full((len(LENGTHS), KV_HEADS, HEAD_DIM), float("nan"))

    batch, kv = build_batch(chunks, BLOCK_TOKENS, CPU), cache.layers[0]

    backend = GatheredAttention(shape, dtype, CPU)
    attended = backend.attend(NewTokens(query, unread, unread), kv, backend.prepare(batch))

    reference = ReferenceAttention(torch.float64, CPU)
    exact = LayerKv(kv.keys.double(), kv.values.double())
    expected = reference.attend(NewTokens(query.double(), unread, unread), exact, reference.prepare(batch))
    torch.testing.assert_close(attended.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
