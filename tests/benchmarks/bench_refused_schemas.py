"""The memory of a worker's processes before and after refused schemas.

A pool of one worker refuses steps whose schemas differ all: some are refused when they are read, some by the compile
process. The memory is the proportional set size (PSS) of the worker and its children, read when the pool is idle. The
same number of refusals comes before the first reading, so that what is allocated once is in both.

    python tests/benchmarks/bench_refused_schemas.py [--schemas 1000]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil

FOLDERS = [str(Path(__file__).parents[2] / folder) for folder in ("proto", "gateway", "operator", "worker")]
sys.path[:0] = [str(Path(__file__).parents[1] / "support"), *FOLDERS]
os.environ["PYTHONPATH"] = os.pathsep.join(FOLDERS)  # of the pool's processes

from figures import emit, machine

from roost import Client, JsonSchema, Sampling, Session
from roost.errors import InvalidSchemaError, RoostError
from roost_operator.api.spec import AgentPool
from roost_operator.local.runner import LocalStack, StackOptions
from whole_pool import POOL

SHORT = Sampling(temperature=0.0, max_tokens=2, ignore_eos=True)


def refused_schema(number: int) -> dict[str, Any]:
    """A schema that is refused, unlike any other: by turns for a contradiction, a type, a pattern, and its size."""
    match number % 4:
        case 0:
            return {"type": "integer", "minimum": number + 1, "maximum": number}
        case 1:
            return {"type": f"type-{number}"}
        case 2:
            return {"type": "string", "pattern": f"(?=a{number})b"}
    wide = [{"properties": {f"p{number}-{key}": {"const": key}}, "required": [f"p{number}-{key}"]} for key in range(12)]
    return {"type": "object", "allOf": [{"anyOf": wide} for _ in range(12)]}


async def refuse(session: Session, first: int, count: int) -> Counter[str]:
    answers: Counter[str] = Counter()
    for number in range(first, first + count):
        try:
            await session.run("Hi.", format=JsonSchema(json.dumps(refused_schema(number))), sampling=SHORT)
            answers["accepted"] += 1
        except InvalidSchemaError:
            answers["INVALID_SCHEMA"] += 1
        except RoostError as error:
            answers[error.reason or type(error).__name__] += 1
    return answers


def memory(pid: int) -> float:
    """PSS of a process and its children, in MiB."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 2**20


@contextlib.asynccontextmanager
async def pool(folder: Path) -> AsyncIterator[LocalStack]:
    options = StackOptions(state_dir=folder / "state", port=0, gateways=1, ray=False, cache_dir=folder / "cache")
    async with LocalStack(AgentPool.model_validate(POOL), options) as stack:
        yield stack


async def run(count: int, folder: Path) -> dict[str, Any]:
    async with pool(folder) as stack, await Client.connect(stack.targets, pool=stack.pool.pool) as client:
        session = await client.open()
        await session.run("Begin.", sampling=SHORT)
        pid = stack.workers[0].pid
        assert pid is not None, "the worker runs"
        readings, answers = [memory(pid)], []
        for round_ in range(2):
            answers.append(await refuse(session, round_ * count, count))
            readings.append(memory(pid))
        await session.run("End.", sampling=SHORT)
        return {
            "schemas": count,
            "answers": [dict(counter) for counter in answers],
            "memory_mib": {"start": readings[0], "after_first": readings[1], "after_second": readings[2]},
            "growth": round(readings[2] / readings[1], 3),
            "growth_from_start": round(readings[2] / readings[0], 3),
            "same_worker": stack.workers[0].pid == pid,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemas", type=int, default=1000)
    count = parser.parse_args().schemas
    with tempfile.TemporaryDirectory(prefix="roost-refused-") as folder:
        emit({"benchmark": "refused_schemas", "machine": machine(), **asyncio.run(run(count, Path(folder)))})


if __name__ == "__main__":
    main()
