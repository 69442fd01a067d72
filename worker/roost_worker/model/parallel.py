"""The ranks of one tensor-parallel group: sums inside the layers, plans from rank 0. One rank runs the same code."""

import os
import pickle
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from roost_worker.model.config import ModelConfigError

_IDLE_TIMEOUT = timedelta(days=365)
"""How long followers wait for a plan. A dead rank closes its sockets, which ends the others' wait at once."""
_WORK_TIMEOUT = timedelta(hours=1)
"""How long rank 0 waits for the others, which load weights or compute a step. With torch 2.15's gloo, sending a plan
to a rank that had just died was seen to wait without an error."""
_HEADER = struct.Struct("<q")
_INLINE_BYTES = 16384


@dataclass(frozen=True, slots=True)
class RankGroup:
    """This rank's place in its group of `world` ranks. With 1 there is no process group; every method is a no-op."""

    rank: int = 0
    world: int = 1
    sums_in_order: bool = False
    """Whether sums add the ranks' parts in the order of ranks, so that they do not depend on the batch's size."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} is outside a group of {self.world}")

    @classmethod
    def join(
        cls, rank: int, world: int, init_method: str | None, device: torch.device, *, sums_in_order: bool = False
    ) -> "RankGroup":
        """Join the group (gloo on CPU; NCCL on CUDA, with gloo beside it for plans).

        Raises:
            ValueError: there are several ranks and `init_method` is None.
            ModelConfigError: two ranks share a GPU, where NCCL would wait for ever.
            RuntimeError: the other ranks did not join.
        """
        group = cls(rank, world, sums_in_order)
        if world > 1:
            if init_method is None:
                raise ValueError(
                    "a group of several ranks needs init_method, for example file:///path or tcp://host:port"
                )
            _prefer_loopback()
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(
                backend,
                init_method=init_method,
                rank=rank,
                world_size=world,
                timeout=_WORK_TIMEOUT if rank == 0 else _IDLE_TIMEOUT,
            )
            if device.type == "cuda":
                check_devices(group.gather_bytes(str(torch.cuda.get_device_properties(device).uuid).encode()))
        return group

    def sum(self, partial: Tensor) -> Tensor:
        """Sum `partial` over the ranks, in place, and return it."""
        if self.world > 1 and self.sums_in_order:
            self._sum_in_order(partial)
        elif self.world > 1:
            dist.all_reduce(partial)
        return partial

    def _sum_in_order(self, partial: Tensor) -> None:
        """`all_reduce` adds an element's parts in an order that depends on its place in the tensor."""
        parts = [torch.empty_like(partial) for _ in range(self.world)]
        dist.all_gather(parts, partial)
        partial.copy_(parts[0])
        for part in parts[1:]:
            partial += part

    def largest(self, values: Tensor) -> Tensor:
        """Replace each of `values` by the largest of all ranks, in place, and return them."""
        if self.world > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def smallest(self, value: int) -> int:
        """Return the smallest `value` of all ranks."""
        if self.world == 1:
            return value
        buffer = torch.tensor([value], dtype=torch.int64)
        dist.all_reduce(buffer, op=dist.ReduceOp.MIN)
        return int(buffer[0])

    def all_true(self, values: Sequence[bool]) -> tuple[bool, ...]:
        """Return for each of `values`, as many on every rank, whether it is true on all ranks."""
        if self.world == 1 or not values:
            return tuple(values)
        buffer = torch.tensor(values, dtype=torch.int32)
        dist.all_reduce(buffer, op=dist.ReduceOp.MIN)
        return tuple(map(bool, buffer.tolist()))

    def gather_bytes(self, own: bytes) -> list[bytes]:
        """Return every rank's bytes, by rank. All must have the same length."""
        if self.world == 1:
            return [own]
        parts = [torch.empty(len(own), dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(parts, torch.frombuffer(bytearray(own), dtype=torch.uint8))
        return [bytes(part.tolist()) for part in parts]

    def gather_columns(self, part: Tensor) -> Tensor | None:
        """Join all ranks' parts [rows, columns] to [rows, world * columns] on rank 0; return None on the others."""
        if self.world == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.world)] if self.rank == 0 else None
        dist.gather(part.contiguous(), parts, dst=0)
        return None if parts is None else torch.cat(parts, dim=1)

    def send_plan(self, plan: Any) -> None:
        """Send any picklable object from rank 0 to the followers' `receive_plan`. None ends them."""
        if self.world == 1:
            return
        payload = pickle.dumps(plan, protocol=pickle.HIGHEST_PROTOCOL)
        message = bytearray(_INLINE_BYTES)
        _HEADER.pack_into(message, 0, len(payload))
        inline = payload[: _INLINE_BYTES - _HEADER.size]
        message[_HEADER.size : _HEADER.size + len(inline)] = inline
        dist.broadcast(torch.frombuffer(message, dtype=torch.uint8), src=0)
        if len(inline) < len(payload):
            dist.broadcast(torch.frombuffer(bytearray(payload[len(inline) :]), dtype=torch.uint8), src=0)

    def receive_plan(self) -> Any:
        """Return the next object from rank 0, on the other ranks. Raise RuntimeError when rank 0 is gone."""
        message = bytearray(_INLINE_BYTES)
        dist.broadcast(torch.frombuffer(message, dtype=torch.uint8), src=0)
        size = _HEADER.unpack_from(message)[0]
        payload = message[_HEADER.size : _HEADER.size + size]
        if len(payload) < size:
            rest = bytearray(size - len(payload))
            dist.broadcast(torch.frombuffer(rest, dtype=torch.uint8), src=0)
            payload += rest
        return pickle.loads(payload)

    def leave(self) -> None:
        """Leave the group."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


ALONE = RankGroup()
"""Of one rank."""


def check_devices(identities: Sequence[bytes]) -> None:
    """Raise ModelConfigError unless every rank has a GPU of its own. `identities` are the ranks' GPUs."""
    if len(set(identities)) < len(identities):
        raise ModelConfigError(
            f"tensorParallel: {len(identities)} ranks need as many GPUs and see {len(set(identities))}; give the "
            "worker more GPUs or lower tensorParallel"
        )


def _prefer_loopback() -> None:
    """Bind gloo to loopback: ranks share a pod, so it must neither resolve the host's name nor listen beyond it."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])
