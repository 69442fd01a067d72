"""Mistral's format v7: system text in a turn of its own, results with the call's id before them.

With a sentencepiece tokenizer (Mistral Large 2411) blanks follow the marks; with tekken there are none.
"""

from roost_worker.render.formats.mistral import CONTENT_MARK, RESULT_WITH_ID, list_of_calls, mistral_format

MISTRAL_V7 = mistral_format(
    "mistral-v7",
    families=("Mistral Large 2411",),
    calls=list_of_calls(" "),
    result=RESULT_WITH_ID,
    blank=" ",
    signs=(CONTENT_MARK,),
)
MISTRAL_V7_TEKKEN = mistral_format(
    "mistral-v7-tekken",
    families=("Mistral Small 3 and 3.1",),
    calls=list_of_calls(""),
    result=RESULT_WITH_ID,
    signs=(CONTENT_MARK,),
)
