"""transformers' own generate(), greedy."""

from collections.abc import Sequence

import torch
import transformers
from peer_loop import serve, settings


def main() -> None:
    given = settings()
    model = transformers.AutoModelForCausalLM.from_pretrained(given["model_dir"], dtype=given["dtype"])
    model.generation_config.eos_token_id = None

    def generate(prompts: Sequence[list[int]], output: int) -> list[int]:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=output, do_sample=False, pad_token_id=0
            )
        return [out.shape[1] - ids.shape[1]] * len(prompts)

    about = {
        "engine": "transformers",
        "version": transformers.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "attention": model.config._attn_implementation,
    }
    serve(about, model.config.vocab_size, generate)


if __name__ == "__main__":
    main()
