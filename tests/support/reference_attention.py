"""The plain backend that the engine's own is checked against: one sequence after the other, correct on every device."""

import torch
from torch import Tensor

from roost_worker.model.attention import attend_sequence, causal_mask
from roost_worker.model.batch import BatchTensors, Span, to_device
from roost_worker.model.heads import Heads
from roost_worker.model.kv_cache import LayerKv
from roost_worker.model.rotary import RotaryTable


class ReferenceAttention:
    """Gathers each sequence and calls SDPA; see AttentionBackend."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device

    def prepare(self, batch: BatchTensors) -> tuple[BatchTensors, list[tuple[Span, Tensor, Tensor]]]:
        spans = [
            (span, to_device(span.block_ids, self._device), causal_mask(span, self._dtype, self._device))
            for span in (*batch.decode, *batch.prefill)
        ]
        return batch, spans

    def attend(
        self,
        qkv: Tensor,
        heads: Heads,
        rotary: RotaryTable,
        kv: LayerKv,
        metadata: tuple[BatchTensors, list[tuple[Span, Tensor, Tensor]]],
    ) -> Tensor:
        batch, spans = metadata
        new = heads.split(qkv, rotary)
        kv.write(batch.kv_blocks, batch.kv_offsets, new.key, new.value)
        outputs = []
        for span, blocks, mask in spans:
            key, value = (
                side.gather(blocks, self._dtype).flatten(0, 1)[: span.length].transpose(0, 1)
                for side in (kv.keys, kv.values)
            )
            outputs.append(attend_sequence(new.query[span.begin : span.end], key, value, mask, causal=False))
        return torch.cat(outputs)
