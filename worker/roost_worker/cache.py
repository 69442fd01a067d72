"""Where a worker keeps what it prepares once: models, and the kernels of its machine."""

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """Return `$ROOST_CACHE`, or `~/.cache/roost`."""
    return Path(os.environ.get("ROOST_CACHE") or Path.home() / ".cache" / "roost").expanduser()
