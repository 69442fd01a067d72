"""transformers' own generate(), greedy."""

import torch
import transformers
from peer_loop import Progress, Prompts, serve, settings


def main() -> None:
    given = settings()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(given["model_dir"], dtype=given["dtype"]).to(device)
    model.generation_config.eos_token_id = None

    def generate(prompts: Prompts, most: int, progress: Progress) -> None:
        ids = torch.tensor(list(prompts.values()), device=device)

        def stop(input_ids: torch.Tensor, _scores: object, **_kwargs: object) -> torch.Tensor:
            # Reading the ids waits for the GPU, as reading them to stream them would.
            input_ids[:, -1].cpu()
            progress.add(dict.fromkeys(prompts, 1))
            return torch.full((input_ids.shape[0],), progress.done, device=device)

        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=most,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=transformers.StoppingCriteriaList([stop]),
            )

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
