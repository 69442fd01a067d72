"""A null worker in a process of its own: `python -m null_worker_process --redis URL --pool POOL [--lean] …`.

It prints `listening on ADDRESS` and serves until it is killed.
"""

import argparse
import asyncio
import sys

import uvloop

from lean_worker import LeanWorker
from null_script import Script
from null_worker import NullWorker


async def _main(arguments: argparse.Namespace) -> None:
    script = Script(
        tokens=arguments.tokens,
        interval=arguments.interval,
        prompt_ids=arguments.prompt_ids,
        capacity_tokens=arguments.capacity,
        max_running=arguments.max_running,
    )
    kind = LeanWorker if arguments.lean else NullWorker
    worker = kind(arguments.redis, arguments.pool, arguments.id, script, secret=arguments.secret, port=arguments.port)
    await worker.start()
    print(f"listening on {worker.address}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m null_worker_process")
    parser.add_argument("--redis", required=True)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--lean", action="store_true", help="the worker of benchmarks")
    parser.add_argument("--id", default="null-1")
    parser.add_argument("--secret", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--interval", type=float, default=0.0)
    parser.add_argument("--prompt-ids", type=int, default=4)
    parser.add_argument("--capacity", type=int, default=10_000_000)
    parser.add_argument("--max-running", type=int, default=4096)
    try:
        uvloop.run(_main(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
