"""Mistral's format v3: calls are `[TOOL_CALLS] [{"name", "arguments"}, …]`, and blanks follow the marks.

With the tekken tokenizer (Mistral Nemo) the same is written without blanks.
"""

from roost_worker.render.formats.mistral import list_of_calls, mistral_format


def _result(blank: str) -> str:
    return (
        f"[TOOL_RESULTS]{blank}"
        '{"content": {{ message.content | tojson }}, "call_id": {{ (message.tool_call_id or "") | tojson }}}'
        "[/TOOL_RESULTS]"
    )


MISTRAL_V3 = mistral_format(
    "mistral-v3",
    families=("Mistral 7B v0.3",),
    calls=list_of_calls(" "),
    result=_result(" "),
    blank=" ",
    system_turn=False,
)
MISTRAL_V3_TEKKEN = mistral_format(
    "mistral-v3-tekken",
    families=("Mistral Nemo",),
    calls=list_of_calls(""),
    result=_result(""),
    system_turn=False,
)
