"""Run one worker without Ray: `python -m roost_worker --config worker.json`. SIGTERM or Ctrl-C drains it.

The first line on stdout is JSON: `{"worker_id", "address", "metrics_port"}`. The log goes to stderr.
"""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from roost_worker.convert.errors import ConvertError
from roost_worker.render.errors import RenderError
from roost_worker.seam.client import EngineStartError
from roost_worker.seam.rank import import_ahead
from roost_worker.seam.subprocess_spawner import SubprocessSpawner
from roost_worker.server.config_file import load_config


def main() -> int:
    """Return 0 after a drain, 1 when the worker died, 2 when it could not start."""
    parser = argparse.ArgumentParser(prog="python -m roost_worker", description="Run one worker without Ray.")
    parser.add_argument("--config", required=True, type=Path, help="a WorkerConfig as JSON")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        config = load_config(parser.parse_args().config)
        # No more than cores: a mistaken number of ranks should cost no more than its error message.
        spawner = SubprocessSpawner(ahead=min(config.model.tensor_parallel, os.cpu_count() or 1))
        # Here, because it takes a second, during which the ranks import torch.
        import_ahead(["roost_worker.server.process"])
        from roost_worker.server.process import serve

        return asyncio.run(serve(config, spawner))
    except (OSError, ValueError, ConvertError, RenderError, EngineStartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
