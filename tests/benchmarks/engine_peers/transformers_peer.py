"""transformers' own generate(), greedy."""

from collections.abc import Sequence

import torch
import transformers
from peer_loop import serve, settings


def main() -> None:
    given = settings()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(given["model_dir"], dtype=given["dtype"]).to(device)
    model.generation_config.eos_token_id = None

    def generate(prompts: Sequence[list[int]], output: int) -> list[int]:
        ids = torch.tensor(prompts, device=device)
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=output, do_sample=False, pad_token_id=0
            )
            if device == "cuda":
                torch.cuda.synchronize()
        return [out.shape[1] - ids.shape[1]] * len(prompts)

    about = {
        "engine": "transformers",
        "version": transformers.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
        "attention": model.config._attn_implementation,
    }
    serve(about, model.config.vocab_size, generate)


if __name__ == "__main__":
    main()
