"""Roost's engine over its real runner, in this process, without gateway and shell."""

from array import array
from pathlib import Path

import torch
from peer_loop import Progress, Prompts, serve, settings

from roost_worker.config import EngineConfig, KvConfig, ModelConfig, WorkerConfig
from roost_worker.engine.engine import Engine
from roost_worker.engine.messages import Cancel, SamplingParams, Submit
from roost_worker.model.kernel_choice import share_of_cores
from roost_worker.model.runner import build_runner

BATCH_TOKENS = {"cpu": 256, "cuda": 4096}
"""What design and measurements say is best on each."""


def main() -> None:
    given = settings()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = WorkerConfig(
        pool="bench/engine",
        model=ModelConfig("model", "file:///bench", given["dtype"], 1, given["context"]),
        kv=KvConfig(memory_bytes=given["kv_bytes"]),
        engine=EngineConfig(
            max_running=32,
            max_batch_tokens=BATCH_TOKENS[device],
            step_goal_seconds=0,  # else the rows that wait for the last prompt would end before it is read
            kernels=given["kernels"],
        ),
    )
    engine = Engine(build_runner(config, Path(given["model_dir"])), config.engine, given["context"])

    def generate(prompts: Prompts, most: int, progress: Progress) -> None:
        for name, prompt in prompts.items():
            ids = array("I", prompt)
            # A key of its own: nobody's blocks are found.
            engine.handle(Submit(name, ids, len(ids), SamplingParams(max_tokens=most), name.encode()))
        while not progress.done and (outputs := engine.iterate()) is not None:
            progress.add({answer.request_id: len(answer.token_ids) for answer in outputs.outputs})
        for name in prompts:
            engine.handle(Cancel(name))
        while engine.iterate() is not None:
            pass

    about = {
        "engine": "roost",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": share_of_cores(1),
        "kernels": config.engine.kernels,
        "block_tokens": config.kv.block_tokens,
        "max_batch_tokens": config.engine.max_batch_tokens,
        "kv_tokens": engine.info.capacity_tokens,
    }
    serve(about, engine.info.vocab_size, generate)
    engine.close()


if __name__ == "__main__":
    main()
