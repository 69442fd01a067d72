"""What a profile of steps on a GPU says, from events as torch's profiler gives them."""

from dataclasses import dataclass

import pytest
from device_profile import profile_of
from torch.autograd import DeviceType
from torch.autograd.profiler_util import Interval


@dataclass
class Event:
    """What is used of a `FunctionEvent`."""

    device_type: DeviceType
    name: str
    start: float
    end: float
    is_user_annotation: bool = False

    @property
    def time_range(self) -> Interval:
        return Interval(self.start, self.end)

    @property
    def self_cpu_time_total(self) -> float:
        return self.end - self.start


def on_host(name: str, start: float, end: float) -> Event:
    return Event(DeviceType.CPU, name, start, end)


def on_device(name: str, start: float, end: float, *, is_user_annotation: bool = False) -> Event:
    return Event(DeviceType.CUDA, name, start, end, is_user_annotation)


def test_a_graph_is_one_launch_of_many_kernels() -> None:
    events = [
        on_host("cudaGraphLaunch", 0, 5),
        on_host("cudaMemcpyAsync", 5, 6),
        on_host("cudaStreamSynchronize", 6, 60),
        on_host("aten::argmax", 6, 7),
        on_device("attention", 10, 30),
        on_device("product", 25, 40),
        on_device("Memcpy DtoH", 50, 52),
        on_device("a region of the caller's", 0, 100, is_user_annotation=True),
    ]
    profile = profile_of(events, steps=2)
    assert profile.busy_seconds == pytest.approx(16e-6)
    assert (profile.launches, profile.kernels) == (1.0, 1.5)
    assert [entry["name"] for entry in profile.top] == ["attention", "product", "Memcpy DtoH"]


@pytest.mark.parametrize(
    "name", ["cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaMemsetAsync", "cudaGraphLaunch"]
)
def test_launches_have_many_names(name: str) -> None:
    assert profile_of([on_host(name, 0, 1), on_device("kernel", 1, 2)], steps=1).launches == 1


def test_without_a_device_operators_take_the_time() -> None:
    profile = profile_of([on_host("aten::mul", 0, 4), on_host("aten::add", 4, 14)], steps=2)
    assert (profile.busy_seconds, profile.launches, profile.kernels) == (None, None, None)
    assert [(entry["name"], entry["microseconds"]) for entry in profile.top] == [("aten::add", 5.0), ("aten::mul", 2.0)]
