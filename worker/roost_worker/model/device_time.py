"""Events of a GPU's stream that can be timed."""

import torch


def timed_event() -> torch.cuda.Event:
    """Return an event between which and another the device's time can be read."""
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # untyped in torch
    return event
