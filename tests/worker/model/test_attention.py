"""Attention backends over paged KV against the plain backend in float64, and the bits of the kernels' results."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from attention_driver import CPU, AttentionDriver, Layer, layer
from compiled_kernels import kernels, needs_compiler
from reference_attention import ReferenceAttention
from roost_worker.model import attention_gathered
from roost_worker.model.attention import AttentionBackend
from roost_worker.model.attention_gathered import GatheredAttention
from roost_worker.model.attention_kernels import KernelAttention, attention_backend
from roost_worker.model.kv_cache import KvShape

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
LENGTHS = (3, 8, 40, 61, 64, 65, 255, 256, 257, 600)
"""At, before and after the edges of vectors, blocks and segments."""

Backend = Callable[[KvShape, torch.dtype], AttentionBackend]


def gathered(shape: KvShape, dtype: torch.dtype) -> AttentionBackend:
    return attention_backend(shape, dtype, CPU, None)


def reference(_shape: KvShape, dtype: torch.dtype) -> AttentionBackend:
    return ReferenceAttention(dtype, CPU)


def by_kernels(threads: int = 2, architecture: str = "native") -> Backend:
    compiled = kernels(threads, architecture)
    return lambda shape, dtype: attention_backend(shape, dtype, CPU, compiled)


BACKENDS = [
    pytest.param(lambda: gathered, id="gathered"),
    pytest.param(by_kernels, id="kernels", marks=needs_compiler),
]


def attended(
    layer: Layer, backend: Backend, cuts: Sequence[Sequence[int]], block_tokens: int, *, is_int8: bool = False
) -> list[Tensor]:
    """Each sequence's outputs of the last batch of `cuts`."""
    driver = AttentionDriver(layer, backend, block_tokens, is_int8=is_int8)
    return [driver.attend(*tokens) for tokens in cuts][-1]


def assert_close(
    layer: Layer, backend: Backend, cuts: Sequence[Sequence[int]], block_tokens: int = 16, *, is_int8: bool = False
) -> None:
    dtype = layer.sequences[0].dtype
    expected = attended(layer.to(torch.float64), reference, cuts, block_tokens, is_int8=is_int8)
    outputs = attended(layer, backend, cuts, block_tokens, is_int8=is_int8)
    for out, exact in zip(outputs, expected, strict=True):
        torch.testing.assert_close(out.double(), exact, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def decode_of(lengths: Sequence[int]) -> list[list[int]]:
    return [[length - 1 for length in lengths], [1 for _ in lengths]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("group", range(1, 9))
def test_decode_is_the_plain_backends(group: int, dtype: torch.dtype, backend: Callable[[], Backend]) -> None:
    assert_close(layer(LENGTHS, dtype, group=group, head_dim=16), backend(), decode_of(LENGTHS))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("head_dim", [8, 34, 64, 80, 128, 256])
def test_a_mixed_batch_is_the_plain_backends(head_dim: int, dtype: torch.dtype, backend: Callable[[], Backend]) -> None:
    """Decode rows, chunks of a few and of many tokens, from the start and behind a context."""
    lengths = (300, 1, 260, 90, 33, 513)
    before, now = (299, 0, 255, 30, 0, 505), (1, 1, 5, 60, 33, 8)
    assert_close(layer(lengths, dtype, head_dim=head_dim), backend(), [before, now])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("head_dim", [8, 34, 80, 128])
def test_int8_is_read_as_it_was_rounded(head_dim: int, dtype: torch.dtype, backend: Callable[[], Backend]) -> None:
    """Keys that are not rotated are the same numbers for all backends, and are rounded to the same steps."""
    before, now = (299, 0, 255, 30, 0, 505), (1, 1, 5, 60, 33, 8)
    unrotated = layer((300, 1, 260, 90, 33, 513), dtype, head_dim=head_dim, rotates=False)
    assert_close(unrotated, backend(), [before, now], is_int8=True)


def test_int8_is_gathered_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    of, cuts = layer((300, 290, 65), torch.bfloat16), [(280, 260, 64), (20, 1, 1)]
    whole = attended(of, gathered, cuts, 16, is_int8=True)
    monkeypatch.setattr(attention_gathered, "RESTORED_BYTES", 3 * 16 * of.heads.share.kv_heads * of.heads.head_dim * 4)
    for out, expected in zip(attended(of, gathered, cuts, 16, is_int8=True), whole, strict=True):
        assert torch.equal(out, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_int8_loses_little(dtype: torch.dtype, backend: Callable[[], Backend]) -> None:
    of, cuts = layer((300, 65), dtype, norms=True), [(280, 64), (20, 1)]
    exact = attended(of.to(torch.float64), reference, cuts, 16)
    for out, expected in zip(attended(of, backend(), cuts, 16, is_int8=True), exact, strict=True):
        assert not torch.equal(out.double(), expected)
        torch.testing.assert_close(out.double(), expected, atol=5e-2, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("number", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("side", [1, 2], ids=["key", "value"])
@pytest.mark.parametrize("is_int8", [False, True], ids=["plain", "int8"])
def test_infinities_and_nans_are_not_hidden(
    is_int8: bool, side: int, number: float, dtype: torch.dtype, backend: Callable[[], Backend]
) -> None:
    of = layer((20,), dtype, group=1, kv_heads=1, head_dim=16, rotates=False)
    of.sequences[0][5, 16 * side + 3] = number
    out = attended(of, backend(), [(20,)], 16, is_int8=is_int8)[0]
    if is_int8 or number != number:
        assert out[5:].isnan().any(dim=1).all()
    else:  # a key's infinite score may be negative, and its weight 0
        assert not out[5:].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("block_tokens", [16, 32, 64, 128])
def test_any_block_size(block_tokens: int, dtype: torch.dtype, backend: Callable[[], Backend]) -> None:
    assert_close(layer((300, 140), dtype), backend(), [(170, 139), (130, 1)], block_tokens)
    unrotated = layer((300, 140), dtype, rotates=False)
    assert_close(unrotated, backend(), [(170, 139), (130, 1)], block_tokens, is_int8=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "kwargs", [{"rotates": False}, {"norms": True}, {"scales": True}, {"norms": True, "scales": True, "head_dim": 10}]
)
def test_any_kind_of_heads(kwargs: dict[str, bool], dtype: torch.dtype, backend: Callable[[], Backend]) -> None:
    heads = layer((70, 40), dtype, **kwargs)
    assert_close(heads, backend(), [(50, 39), (20, 1)])


CAPABILITIES = {"x86-64-v3": ("AVX2", "AVX512"), "x86-64-v4": ("AVX512",)}
"""What torch says of processors that run code for an architecture."""


@needs_compiler
@pytest.mark.parametrize("architecture", CAPABILITIES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_processors_with_fewer_instructions(dtype: torch.dtype, architecture: str) -> None:
    """AVX2, and AVX-512 without bf16 units."""
    if torch.backends.cpu.get_cpu_capability() not in CAPABILITIES[architecture]:
        pytest.skip(f"this processor does not run {architecture}")
    backend = by_kernels(2, architecture)
    assert_close(layer((300, 600, 65), dtype, group=7, head_dim=80), backend, [(20, 599, 33), (280, 1, 32)])
    assert_one_result(layer((300,), dtype), backend)
    unrotated = layer((300, 65), dtype, group=5, head_dim=34, rotates=False)
    assert_close(unrotated, backend, [(20, 33), (280, 32)], is_int8=True)
    assert_one_result(layer((300,), dtype), backend, is_int8=True)


def assert_one_result(layer: Layer, backend: Backend, *, is_int8: bool = False) -> None:
    """All tokens' outputs are the same bits, whether decoded or computed in chunks of any size."""
    whole = AttentionDriver(layer, backend, 16, is_int8=is_int8).attend_in_chunks(1 << 20)
    for tokens in (1, 2, 33, 256):
        chunked = AttentionDriver(layer, backend, 16, is_int8=is_int8).attend_in_chunks(tokens)
        assert torch.equal(chunked.view(torch.uint8), whole.view(torch.uint8)), tokens


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("group", [1, 3, 8])
def test_kernels_decode_and_prefill_to_the_same_bits(group: int, dtype: torch.dtype) -> None:
    assert_one_result(layer((600,), dtype, group=group, norms=True), by_kernels())
    assert_one_result(layer((300,), dtype, group=group, norms=True), by_kernels(), is_int8=True)


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("is_int8", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize("cuts", [[(1400, 0), (1, 0)], [(1388, 0), (13, 0)], [(1000, 0), (401, 0)]])
def test_neighbours_threads_and_blocks_do_not_change_a_bit(
    cuts: list[tuple[int, int]], is_int8: bool, dtype: torch.dtype
) -> None:
    """One long sequence, whose segments are divided among threads when it is alone, and are not beside many rows."""
    layer_of = layer((1401, 700), dtype)
    expected = attended(layer_of, by_kernels(1), cuts, 16, is_int8=is_int8)[0]
    beside = [(cuts[0][0], 300), (cuts[1][0], 400)]
    for threads, batches, block_tokens in ((2, cuts, 16), (3, cuts, 128), (2, beside, 32), (3, beside, 16)):
        out = attended(layer_of, by_kernels(threads), batches, block_tokens, is_int8=is_int8)[0]
        assert torch.equal(out.view(torch.uint8), expected.view(torch.uint8)), (threads, batches, block_tokens)


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_what_an_earlier_sequence_left_in_a_block_does_not_matter(dtype: torch.dtype) -> None:
    layer_of, cuts = layer((33, 71), dtype), [(32, 70), (1, 1)]
    for is_int8 in (False, True):
        # Scales are NaN where all their bits are set.
        rubbish, zero = (
            AttentionDriver(layer_of, by_kernels(), 16, left_behind=number, is_int8=is_int8)
            for number in (-1 if is_int8 else float("nan"), 0)
        )
        for tokens in cuts:
            for out, expected in zip(rubbish.attend(*tokens), zero.attend(*tokens), strict=True):
                assert torch.equal(out, expected)


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("side", [1, 2], ids=["key", "value"])
def test_int8_that_is_not_finite_is_read_by_later_tokens_only(side: int, dtype: torch.dtype) -> None:
    """Also within a tile of queries, whose first ones do not attend to it."""
    of = layer((20,), dtype, group=1, kv_heads=1, head_dim=16, rotates=False)
    of.sequences[0][3, 16 * side + 5] = float("nan")
    out = attended(of, by_kernels(), [(20,)], 16, is_int8=True)[0]
    assert out[:3].isfinite().all()
    assert out[3:].isnan().any(dim=1).all()


@needs_compiler
def test_weights_are_accurate() -> None:
    """Each value is one of the unit vectors, so that the outputs are the weights. Scores are exact in float32."""
    head_dim = 64
    scores = torch.linspace(-20, 20, head_dim)
    query, keys = torch.zeros(head_dim, head_dim), torch.zeros(head_dim, head_dim)
    query[:, 0], keys[:, 0] = head_dim**0.5, scores
    ones = layer((head_dim,), group=1, kv_heads=1, head_dim=head_dim, rotates=False)
    sequence = torch.cat((query, keys, torch.eye(head_dim)), dim=1)
    out = attended(Layer(ones.heads, ones.rotary, (sequence,)), by_kernels(), [(head_dim,)], 16)[0][-1]
    torch.testing.assert_close(out.double(), scores.double().softmax(0), rtol=3e-6, atol=0)


@needs_compiler
def test_the_choice_of_a_backend() -> None:
    shape, compiled = KvShape(2, 1, 16, 1, 8), kernels(1)
    assert isinstance(attention_backend(shape, torch.bfloat16, CPU, compiled), KernelAttention)
    assert isinstance(attention_backend(shape, torch.float64, CPU, compiled), GatheredAttention)
    assert isinstance(attention_backend(shape, torch.float32, CPU, None), GatheredAttention)
