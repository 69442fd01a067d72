"""Which regular expressions of JSON schemas the grammar library reads, and reads as ECMA-262 does. Pure.

It reads Rust's syntax, without assertions other than anchors at the ends. What is not known to be common to both is
left out here: a tool with such a pattern is checked after its call, and not refused when its grammar is compiled.
"""

import re
from collections.abc import Iterable

_CATEGORY = r"(?:L[ultmo]?|M[nce]?|N[dlo]?|P[cdseifo]?|S[mcko]?|Z[slp]?|C[cfno]?)"
_ESCAPE = (
    r"\\(?:[dDwWsSntrfv]|x[0-9a-fA-F]{2}|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|[!-/:;=?@\[-`{-~ ]"
    rf"|[pP](?:[LMNPSZC]|\{{{_CATEGORY}\}}))"
)
_TOKEN = re.compile(
    "|".join(
        (
            rf"(?P<atom>{_ESCAPE}|[^\\\[\](){{}}*+?|^$]|\[(?!\^\])\^?(?:{_ESCAPE}|[^\\\[\]])+\])",
            r"(?P<repeat>(?:[*+?]|\{[0-9]{1,6}(?:,[0-9]{0,6})?\})\??)",
            r"(?P<open>\((?:\?(?:i?:|P?<[A-Za-z_][A-Za-z_0-9]*>))?)",
            r"(?P<close>\))",
            r"(?P<or>\|)",
            r"(?P<start>\^)",
            r"(?P<end>\$)",
        )
    )
)
_SPACES = r"\t-\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_LAST = "\U0010ffff"
_CLASSES = {
    "d": "0-9",
    "D": rf"\x00-\x2f\x3a-{_LAST}",
    "w": "A-Za-z0-9_",
    "W": rf"\x00-\x2f\x3a-\x40\x5b-\x5e\x60\x7b-{_LAST}",
    "s": _SPACES,
    "S": (
        r"\x00-\x08\x0e-\x1f\x21-\x9f\xa1-\u167f\u1681-\u1fff\u200b-\u2027\u202a-\u202e\u2030-\u205e"
        rf"\u2060-\u2fff\u3001-\ufefe\uff00-{_LAST}"
    ),
}
"""What ECMA-262 means by these escapes. Python's match letters and digits of all scripts, Rust's other blanks."""
_PART = re.compile(r"\\.|.", re.DOTALL)
_SET_OPERATORS = ("&&", "--", "~~")
"""Rust's, within brackets."""


def is_expressible(pattern: str) -> bool:
    """Return whether a grammar can hold strings to `pattern`."""
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(pattern):
        token = _TOKEN.match(pattern, position)
        if token is None or not token.lastgroup:
            return False
        tokens.append((token.lastgroup, token[0]))
        position = token.end()
    kinds = [kind for kind, _ in tokens]
    return (
        not any(operator in text for _, text in tokens if text[0] == "[" for operator in _SET_OPERATORS)
        and is_readable(_in_python(pattern))
        and _repeats_are_sound(kinds)
        and _anchors_are_outside(kinds, "start", "open", "close")
        and _anchors_are_outside(list(reversed(kinds)), "end", "close", "open")
    )


def with_ecma_classes(pattern: str) -> str:
    r"""Return the pattern with `\d`, `\w`, `\s` and their opposites spelled out, as Rust and Python read them alike."""
    if not re.search(r"\\[dDwWsS]", pattern):
        return pattern
    parts: list[str] = []
    is_in_set, follows_class = False, False
    for part in _PART.findall(pattern):
        is_class = part[0] == "\\" and part[1:] in _CLASSES
        if is_class and is_in_set:
            # Beside a class, a hyphen stands for itself.
            parts[-1:] = ["\\-"] if parts[-1] == "-" else parts[-1:]
            parts.append(_CLASSES[part[1]])
        elif is_class:
            parts.append(f"[{_CLASSES[part[1]]}]")
        else:
            parts.append("\\-" if part == "-" and is_in_set and follows_class else part)
            is_in_set = part == "[" or (is_in_set and part != "]")
        follows_class = is_class
    return "".join(parts)


def repeats_counts(pattern: str) -> bool:
    """Return whether a group may repeat for ever in a pattern that counts elsewhere, as host names do.

    Whether any string of a bounded length matches it can be too much for the library.
    """
    return "{" in pattern and re.search(r"\)(?:[*+]|\{\d+,\})", pattern) is not None


def is_readable(pattern: str) -> bool:
    """Return whether Python reads the pattern."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _in_python(pattern: str) -> str:
    """Return a pattern that Python reads if ranges, repetitions and names in `pattern` are sound."""
    pattern = re.sub(r"\\[pP](\{[^}]*\}|[A-Z])", r"\\w", pattern.replace("(?<", "(?P<"))
    return re.sub(r"(\\[dDwWsS])-(?!\])", r"\1\-", pattern)


def _repeats_are_sound(kinds: list[str]) -> bool:
    """Return whether each repetition repeats an atom or a group without anchors, and groups are closed."""
    anchored = [False]  # per open group, whether it holds an anchor
    closed_anchored, previous = False, "open"
    for kind in kinds:
        match kind:
            case "open":
                anchored.append(False)
            case "close":
                closed_anchored = anchored.pop()
                if not anchored:
                    return False
                anchored[-1] |= closed_anchored
            case "start" | "end":
                anchored[-1] = True
            case "repeat" if previous not in ("atom", "close") or (previous == "close" and closed_anchored):
                return False
        previous = kind
    return len(anchored) == 1


def _anchors_are_outside(kinds: Iterable[str], anchor: str, opening: str, closing: str) -> bool:
    """Return whether nothing comes before an anchor, in the order of `kinds`, on any way through the alternatives."""
    outside, at_open = True, [True]
    for kind in kinds:
        if kind == opening:
            at_open.append(outside)
        elif kind == closing:
            at_open.pop()
            outside = False
        elif kind == "or":
            outside = at_open[-1]
        elif kind == anchor:
            if not outside:
                return False
        else:
            outside = False
    return True
