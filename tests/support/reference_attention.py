"""The plain backend that the engine's own is checked against: one sequence after the other, correct on every device."""

import torch
from torch import Tensor

from roost_worker.model.attention import NewTokens, attend_sequence, causal_mask
from roost_worker.model.batch import BatchTensors, Span, to_device
from roost_worker.model.kv_cache import LayerKv


class ReferenceAttention:
    """Gathers each sequence and calls SDPA; see AttentionBackend."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device

    def prepare(self, batch: BatchTensors) -> list[tuple[Span, Tensor, Tensor]]:
        return [
            (span, to_device(span.block_ids, self._device), causal_mask(span, self._dtype, self._device))
            for span in (*batch.decode, *batch.prefill)
        ]

    def attend(self, new: NewTokens, kv: LayerKv, metadata: list[tuple[Span, Tensor, Tensor]]) -> Tensor:
        outputs = []
        for span, blocks, mask in metadata:
            key, value = (
                side.index_select(0, blocks).flatten(0, 1)[: span.length].transpose(0, 1)
                for side in (kv.keys, kv.values)
            )
            outputs.append(attend_sequence(new.query[span.begin : span.end], key, value, mask, causal=False))
        return torch.cat(outputs)
