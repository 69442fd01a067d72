"""Which kernels a rank computes with: compiled for its machine, Triton's, or torch's operators."""

import importlib.util
import logging
import os
import shutil

import torch

from roost_worker.config import KernelChoice
from roost_worker.kernels.compiler import NoKernelsError, compiled
from roost_worker.kernels.library import DTYPES, Kernels
from roost_worker.model.config import ModelConfigError

LOG = logging.getLogger(__name__)
_TRITON_DTYPES = (torch.float32, torch.bfloat16)
_LEAST_CAPABILITY = (8, 0)
"""The first that multiplies bfloat16."""


def choose_kernels(
    choice: KernelChoice, dtype: torch.dtype, device: torch.device, threads: int, *, required: bool = False
) -> Kernels | None:
    """Return the compiled kernels, or None where torch's operators or Triton's kernels do the work; a line of the log
    says which.

    Torch gets `threads`, or one for what is left to it beside the kernels: its threads spin, in the way of theirs.
    Raise ModelConfigError when kernels are `required`, for strict determinism, and there are none.
    """
    kernels = None
    try:
        kernels = _load(choice, dtype, device, threads)
        LOG.info("the model runs on compiled kernels, %s, %d threads", kernels.units, kernels.threads)
    except NoKernelsError as error:
        if required:
            raise ModelConfigError(
                f"determinism: strict needs compiled kernels, which are missing because {error}; or use relaxed"
            ) from error
        if choice != "triton":
            LOG.info("the model runs on torch's operators, because %s", error)
    torch.set_num_threads(1 if kernels else threads)
    return kernels


def _load(choice: KernelChoice, dtype: torch.dtype, device: torch.device, threads: int) -> Kernels:
    if choice != "auto":
        raise NoKernelsError(f"engine.kernels is {choice}")
    if device.type != "cpu":
        raise NoKernelsError("the model is on a GPU")
    if dtype not in DTYPES:
        raise NoKernelsError(f"there are none for {str(dtype).removeprefix('torch.')}")
    return Kernels(compiled(), threads)


def uses_triton(choice: KernelChoice, dtype: torch.dtype, device: torch.device, *, strict: bool) -> bool:
    """Return whether Triton's kernels compute attention, and with `strict` determinism products: where they are
    chosen, and with `auto` on GPUs if it is strict. Raise ModelConfigError when they should and cannot.
    """
    is_chosen = choice == "triton"
    if not is_chosen and not (strict and choice == "auto" and device.type == "cuda"):
        return False
    if reason := _why_no_triton(dtype, device):
        field = "engine.kernels: triton" if is_chosen else "determinism: strict on a GPU"
        raise ModelConfigError(f"{field} needs {reason}; or use {'auto' if is_chosen else 'relaxed'}")
    return True


def _why_no_triton(dtype: torch.dtype, device: torch.device) -> str:
    if dtype not in _TRITON_DTYPES:
        return "dtype bfloat16 or float32"
    if importlib.util.find_spec("triton") is None:
        return "the package triton, which comes with torch on Linux"
    if device.type == "cpu":
        return "" if os.environ.get("TRITON_INTERPRET") == "1" else "a GPU"
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return "a GPU of compute capability 8.0 or more"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler in the workers' image ($CC, gcc or clang), with which Triton builds its launcher"
    return ""


def share_of_cores(ranks: int) -> int:
    """Return how many threads a rank may use: OMP_NUM_THREADS, or its share of the machine's cores."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal() and int(given) > 0:
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // ranks)
