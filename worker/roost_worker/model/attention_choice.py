"""Which attention a rank computes with, and whether its decode steps are of static shapes."""

import logging
from typing import TYPE_CHECKING

import torch

from roost_worker.config import WorkerConfig
from roost_worker.kernels.library import Kernels
from roost_worker.model.attention import AttentionBackend
from roost_worker.model.attention_kernels import attention_backend
from roost_worker.model.config import DecoderConfig, ModelConfigError
from roost_worker.model.kv_cache import PagedKvCache
from roost_worker.model.layers import HeadShare
from roost_worker.model.llama import Llama
from roost_worker.model.parallel import RankGroup

if TYPE_CHECKING:
    from roost_worker.model.decode_steps import DecodeSteps

LOG = logging.getLogger(__name__)


def attention_parts(
    config: WorkerConfig,
    decoder: DecoderConfig,
    model: Llama,
    cache: PagedKvCache,
    group: RankGroup,
    kernels: Kernels | None,
    *,
    by_triton: bool,
) -> "tuple[AttentionBackend, DecodeSteps | None]":
    """Return the rank's attention and, for one that is alone and computes `by_triton`, steps of static shapes.

    Raise ModelConfigError when there is no memory for the steps.
    """
    device = cache.tensor.device
    if not by_triton:
        return attention_backend(cache.shape, cache.dtype, device, kernels), None
    # Here, because they need triton.
    from roost_worker.model.attention_triton import TritonAttention
    from roost_worker.model.decode_steps import DecodeSteps

    context, most_rows = config.model.context_tokens, config.engine.max_running
    is_strict = config.model.determinism == "strict"
    heads = HeadShare.of(decoder, group).heads
    backend = TritonAttention(cache.shape, heads, cache.dtype, device, context, batch_invariant=is_strict)
    LOG.info("Triton's kernels compute %s", "attention and products" if is_strict else "attention")
    if group.world > 1:
        return backend, None
    try:
        steps = DecodeSteps(model, cache, backend, most_rows=most_rows, context_tokens=context)
        if device.type == "cuda":
            steps.capture()
    except torch.OutOfMemoryError as error:
        raise ModelConfigError(
            f"engine.maxRunning: the GPU has no memory left for decode steps of {most_rows} sessions; lower it or "
            f"kvCache.memory ({error})"
        ) from error
    return backend, steps
