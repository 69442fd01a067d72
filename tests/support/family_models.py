"""Tokenizers and template descriptions of four families, made on the spot: small, but with the families' own tokens."""

import json
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from roost_worker.convert.tokenization import describe_template
from roost_worker.render.description import TemplateDescription
from roost_worker.render.formats import CHATML, TurnFormat
from roost_worker.render.renderer import Renderer
from roost_worker.render.vocabulary import Vocabulary

TEMPLATES = Path(__file__).parent.parent / "worker" / "render" / "templates"

SPECIAL = {
    "smollm2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_start|>"],
    "llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|python_tag|>",
    ],
    "mistral": [
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[TOOL_CALLS]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ],
}
ADDED_NOT_SPECIAL = {
    "qwen3": ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
}
BOUNDS = {
    "smollm2": ("<|im_start|>", "<|im_end|>"),
    "qwen3": ("", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "mistral": ("<s>", "</s>"),
}
NAMES = tuple(SPECIAL)

_TEXT = """The quick brown fox jumps over the lazy dog. You are a helpful assistant. What is the capital of France?
system user assistant tool im_start im_end start_header_id INST tool_call tool_response name arguments parameters
{"name": "grep", "arguments": {"query": "needle", "limit": 3}} function signatures within XML tags 0 1 2 3 4 5 6 7 8 9
"""


def tokenizer_json(name: str) -> str:
    return build_tokenizer(tuple(SPECIAL[name]), tuple(ADDED_NOT_SPECIAL.get(name, ())))


@cache
def build_tokenizer(special: tuple[str, ...], added: tuple[str, ...]) -> str:
    """A byte-level BPE tokenizer of about 600 tokens with these control tokens; those of `added` are not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_TEXT.splitlines(), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    return str(tokenizer.to_str())


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def description(name: str, chat_template: str | None = None) -> TemplateDescription:
    """`template.json` as the converter would write it."""
    source = template(name) if chat_template is None else chat_template
    return describe_template(tokenizer_json(name), source, *BOUNDS[name], None)


@cache
def renderer(name: str) -> Renderer:
    vocabulary = Vocabulary(tokenizer_json(name))
    return Renderer(description(name), vocabulary, len(vocabulary.token_bytes))


def format_tokenizer(turn_format: TurnFormat, *, special_marks: bool) -> str:
    """The tokenizer of a model that was trained on the format. The marks of calls and thinking are tokens, but in plain
    ChatML, which with them would be Qwen3's."""
    marks = () if turn_format is CHATML else turn_format.marks
    own = dict.fromkeys((*turn_format.tokens, *turn_format.signs, *turn_format.turn_ends, *marks))
    special = tuple(token for token in own if special_marks or token not in turn_format.marks)
    return build_tokenizer(special, () if special_marks else marks)


@cache
def format_renderer(turn_format: TurnFormat, *, special_marks: bool) -> Renderer:
    """The same model's renderer; the model's own template writes the turns of the format."""
    document = format_tokenizer(turn_format, special_marks=special_marks)
    vocabulary = Vocabulary(document)
    described = describe_template(document, turn_format.turns, "", turn_format.turn_ends[0], None)
    return Renderer(described, vocabulary, len(vocabulary.token_bytes))


@cache
def built_in_renderer(turn_format: TurnFormat, *, special_marks: bool) -> Renderer:
    """The renderer of a model that was trained on the format, and has no chat template."""
    vocabulary = Vocabulary(format_tokenizer(turn_format, special_marks=special_marks))
    end = turn_format.turn_ends[0]
    described = TemplateDescription("", "", end, (vocabulary.control[end],), turn_format.name)
    return Renderer(described, vocabulary, len(vocabulary.token_bytes))


@cache
def full_tokenizer(name: str) -> Tokenizer:
    """The tokenizer as `transformers` would use it: control tokens wherever their text stands."""
    return Tokenizer.from_str(tokenizer_json(name))


def control_ids(name: str) -> set[int]:
    return {int(token["id"]) for token in json.loads(tokenizer_json(name))["added_tokens"]}


def spell(name: str, ids: "list[int]") -> str:
    """The ids as text, control tokens included."""
    return str(full_tokenizer(name).decode(ids, skip_special_tokens=False))


@cache
def all_bytes(name: str) -> tuple[bytes, ...]:
    """What each id stands for, control tokens by their text."""
    vocabulary = renderer(name).vocabulary
    table = list(vocabulary.token_bytes)
    for text, index in vocabulary.control.items():
        table[index] = text.encode()
    return tuple(table)


def tokenizer_with_reachable_control_token(text: str) -> str:
    """A tokenizer whose merges spell a control token, so that plain BPE reaches its id."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    return str(tokenizer.to_str())
