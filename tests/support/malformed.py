"""Bodies of requests in which one value is another: for tests that nothing that a client sends breaks an endpoint."""

import copy
from typing import Any

from hypothesis import strategies as st

Path = tuple[Any, ...]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
"""JSON values, and what JSON does not have: infinities, and text that cannot be encoded."""


def places(document: Any, path: Path = ()) -> list[Path]:
    """The paths of all values in a document, from the root's on."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    return [path, *(place for key in keys for place in places(document[key], (*path, key)))]


def replaced(document: Any, path: Path, value: Any) -> Any:
    """A copy of the document with another value at the path."""
    if not path:
        return value
    changed = copy.copy(document)
    changed[path[0]] = replaced(document[path[0]], path[1:], value)
    return changed
