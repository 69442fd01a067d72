"""Weights of a model folder, mapped into memory; each layer asks for its rank's part of each tensor."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHTS_FILE = "model.safetensors"

_open: Any = safe_open  # it has no types


class WeightsError(ValueError):
    """The weights cannot be used: not a safetensors file, a missing tensor, or one of the wrong shape."""


class Weights:
    """An open `model.safetensors`. Only the rows or columns asked for are read, when they are asked for.

    Args:
        path: the safetensors file.
        dtype, device: what every tensor is converted to.
    Raises:
        WeightsError: the file is missing, truncated, or not a safetensors file.
    """

    def __init__(self, path: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.path = path
        self.dtype = dtype
        self.device = device
        try:
            self._file: Any = _open(str(path), framework="pt", device="cpu")
        except FileNotFoundError:
            raise WeightsError(f"{path} is missing; prepare the model with `roost model prepare`") from None
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is not a usable safetensors file ({error}); prepare the model again") from error
        self._names = frozenset(self._file.keys())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def whole(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a whole tensor of the expected shape. Raise WeightsError."""
        return self._finish(self._slice(name, shape)[...])

    def rows(self, name: str, shape: tuple[int, ...], start: int, stop: int) -> Tensor:
        """Return rows start .. stop of a tensor whose whole shape is `shape`. Raise WeightsError."""
        return self._finish(self._slice(name, shape)[start:stop])

    def columns(self, name: str, shape: tuple[int, int], start: int, stop: int) -> Tensor:
        """Return columns start .. stop of a matrix whose whole shape is `shape`. Raise WeightsError."""
        return self._finish(self._slice(name, shape)[:, start:stop])

    def _slice(self, name: str, shape: tuple[int, ...]) -> Any:
        if name not in self._names:
            raise WeightsError(f"{self.path}: tensor {name} is missing; is this another model's file?")
        view = self._file.get_slice(name)
        stored_shape = tuple(view.get_shape())
        if stored_shape != shape:
            raise WeightsError(f"{self.path}: tensor {name} has shape {stored_shape}, but config.json says {shape}")
        return view

    def _finish(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.dtype).contiguous()
