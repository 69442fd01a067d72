"""Which requests an engine cannot run."""

from roost_worker.engine.messages import EngineInfo, Submit


def refusal(request: Submit, info: EngineInfo) -> str:
    """Return why the engine of `info` cannot run the request, or an empty string."""
    ids, limit, vocab = request.token_ids, info.context_tokens, info.vocab_size
    if not 0 < request.prompt_len <= len(ids):
        return f"prompt_len {request.prompt_len} is not between 1 and the context's {len(ids)} tokens"
    if request.prompt_len >= limit:
        return (
            f"the prompt of {request.prompt_len} tokens leaves no room for output in a context of {limit}; "
            "shorten it, or raise contextTokens and kvCache.memory"
        )
    if min(ids) < 0 or max(ids) >= vocab:
        return f"token ids must be between 0 and {vocab - 1}"
    return ""
