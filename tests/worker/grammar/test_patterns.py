"""Patterns that are called expressible compile; assertions and what Rust reads otherwise are not."""

import json
import re

import pytest

from grammars import accepts, dummy_compiler
from roost_worker.grammar import GrammarCompiler, build_json_schema
from roost_worker.grammar.patterns import is_expressible, with_ecma_classes


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    return dummy_compiler(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize(
    ("pattern", "matches", "differs"),
    [
        ("", "a", None),
        ("^$", "", "a"),
        ("q[0-9]", "xq1y", "q"),
        ("^a$|^b$", "b", "ab"),
        ("(^$|^https?://)", "http://x", "ftp"),
        ("(?:^|,)a", "b,a", "ba"),
        (r"^\d{3}-\d{4}$", "123-4567", "123-456"),
        (r"^[\w.%+-]+@[\w.-]+\.[A-Za-z]{2,}$", "a.b@c.de", "a@b"),
        (r"^[\s\S]*$", "a b", None),
        (r"^(?<year>[0-9]{4})$", "1999", "99"),
        (r"^(?i:ab)$", "aB", "ac"),
        (r"^\p{Lu}\p{N}*$", "É1", "é1"),
        (r"^[\]\-^]\/$", "^/", "a/"),
        (r"^\u0041\x42$", "AB", "ab"),
        (r"^a*?b+?$", "aab", "aa"),
        (r"^[\w-.]$", "-", " "),
        (r"^[\w-.]$", ".", "+"),
        (r"^[-\d]$", "-", "."),
        (r"^[\d\w-]$", "-", "."),
        *[(r"^\d$", "7", text) for text in ("\u0663", "a")],
        *[(r"^\D$", text, "7") for text in ("\u0663", "a")],
        *[(r"^\w$", "_", text) for text in ("\u00e9", "\u0663", "-")],
        *[(r"^\W$", text, "_") for text in ("\u00e9", "\u0663", "`", "^")],
        *[(r"^\s$", text, "\u0085") for text in (" ", "\t", "\u000b", "\u00a0", "\u200a", "\u2028", "\ufeff")],
        *[(r"^\S$", "\u0085", text) for text in (" ", "\r", "\u00a0", "\u3000", "\ufeff")],
        *[(r"^[^\s\d]$", text, "\ufeff") for text in ("a", "\u0663")],
        *[(r"^[\D]$", text, "7") for text in ("/", ":", "\U0001f600")],
        (r"^\\d$", r"\d", "7"),
    ],
)
def test_what_is_expressible_is_enforced_and_checked_alike(
    compiler: GrammarCompiler, pattern: str, matches: str, differs: str | None
) -> None:
    assert is_expressible(pattern)
    grammar = build_json_schema(json.dumps({"type": "string", "pattern": pattern}))
    assert accepts(compiler, grammar, json.dumps(matches, ensure_ascii=False))
    assert differs is None or not accepts(compiler, grammar, json.dumps(differs, ensure_ascii=False))
    if r"\p" in pattern or "(?<" in pattern:
        return  # Python does not read these
    assert re.search(with_ecma_classes(pattern), matches)
    assert differs is None or not re.search(with_ecma_classes(pattern), differs)


@pytest.mark.parametrize(
    "pattern",
    [
        *("(?=a)b", "(?!a)", "(?<=a)b", "(?<!a)b", r"(a)\1", r"\k<n>", r"\bfoo", r"\B", r"[\b]", "(?>a)", "(?#c)"),
        *("a^b", "a$b", "(a$)+", "(^a)*", "x(^)", "($)y", "^*", "(?m)^a$", r"\Aa", r"a\Z", r"\cA", r"\0", r"\e"),
        *("[^]", "[]a]", "[[]", "[a[b]]", "[a&&b]", "[a--b]", "[a~~b]", "[z-a]", r"\ud83d\ude00", r"\u{1F600}"),
        *("(", ")", "*a", "a**", "a{2,1}", "{", "a{,2}", "a++", r"\p{Lx}", r"\p{Script=Greek}", r"\é", r"\<a", "]"),
    ],
)
def test_what_may_be_read_otherwise_is_not_expressible(pattern: str) -> None:
    assert not is_expressible(pattern)
