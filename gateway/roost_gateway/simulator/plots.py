"""Draws a simulation as PNG files. matplotlib is an extra of its own, so only `--plot` may import this module."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from roost_gateway.simulator.history import History

SIZE_INCHES = (8.0, 4.5)
DOTS_PER_INCH = 120


def draw(history: History, folder: Path, kv_tokens: int) -> list[Path]:
    """Write the plots into a folder, which is created if it does not exist, and return their paths.

    `kv_tokens` is what all workers hold together. Raise ValueError when no step has ended, OSError when a file cannot
    be written.
    """
    if not history.ttfts:
        raise ValueError("no step has ended, so that there is nothing to plot; raise --steps or --seconds")
    folder.mkdir(parents=True, exist_ok=True)
    hours = [moment.seconds / 3600 for moment in history.moments]
    hits = [moment.hit_ratio for moment in history.moments]
    waiting = [moment.waiting for moment in history.moments]
    working_set = [moment.working_set_tokens / 1e6 for moment in history.moments]
    return [
        _over_time(folder / "hit-ratio.png", hours, hits, "hit ratio", highest=1.0),
        _over_time(folder / "waiting.png", hours, waiting, "steps that wait"),
        _over_time(folder / "working-set.png", hours, working_set, "million tokens", line=("KV", kv_tokens / 1e6)),
        _ttft(folder / "ttft.png", sorted(history.ttfts)),
    ]


def _over_time(
    path: Path,
    hours: Sequence[float],
    values: Sequence[float],
    label: str,
    *,
    highest: float | None = None,
    line: tuple[str, float] | None = None,
) -> Path:
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot(xlabel="simulated hours", ylabel=label)
    axes.plot(hours, values)
    if line:
        axes.axhline(line[1], linestyle="--", color="grey", label=line[0])
        axes.legend()
    axes.set_ylim(0.0, highest)
    figure.savefig(path)
    return path


def _ttft(path: Path, seconds: Sequence[float]) -> Path:
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot(xlabel="seconds to the first token", ylabel="share of steps", xscale="log")
    axes.ecdf(seconds)
    figure.savefig(path)
    return path
