"""What a device does in a number of steps, by torch's profiler."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gpu_summary import busy_time, longest_first
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

TOP = 15
LAUNCH = re.compile(r"cu(da)?(Launch|GraphLaunch|Memcpy|Memset)")
"""Calls of CUDA's runtime and driver that give the device work, as the profiler names them."""


@dataclass(frozen=True)
class StepProfile:
    """All numbers are of one step."""

    busy_seconds: float | None
    """While at least one kernel or copy ran on the device; None on a CPU, and where the profiler saw no device."""
    launches: float | None
    """Calls that gave the device work: a graph is one."""
    kernels: float | None
    """Kernels and copies that the device ran."""
    top: list[dict[str, Any]]
    """What took longest, of the device's work, or of torch's operators on a CPU: name, calls, microseconds."""


def profile_steps(step: Callable[[], None], steps: int) -> StepProfile:
    """Run `step` as many times under the profiler."""
    is_cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        if is_cuda:
            torch.cuda.synchronize()
    return profile_of(profiler.events(), steps)


def profile_of(events: Sequence[Any], steps: int) -> StepProfile:
    """Return the profile of a step, from the profiler's `FunctionEvent`s of so many."""
    host = [event for event in events if event.device_type == DeviceType.CPU]
    device = [event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
    if not device:
        times = [(event.name, event.self_cpu_time_total) for event in host]
        return StepProfile(None, None, None, longest_first(times, steps, TOP))
    spans = [(event.time_range.start, event.time_range.end) for event in device]
    times = [(event.name, event.time_range.elapsed_us()) for event in device]
    return StepProfile(
        busy_seconds=busy_time(spans) * 1e-6 / steps,
        launches=sum(bool(LAUNCH.match(event.name)) for event in host) / steps,
        kernels=len(device) / steps,
        top=longest_first(times, steps, TOP),
    )
