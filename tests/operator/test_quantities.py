"""Amounts of memory as pools give them."""

import pytest

from roost_operator.api.quantity import memory_bytes, optional_memory_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", None),
        ("1", 1),
        ("1k", 1000),
        ("1Ki", 1024),
        ("256Mi", 2**28),
        ("2G", 2 * 10**9),
        ("0.5Ki", 512),
        ("0.7Gi", 751_619_277),
        ("1.3Gi", 1_395_864_372),
        ("0.1", 1),
    ],
)
def test_quantities(text: str, expected: int | None) -> None:
    assert memory_bytes(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("0Gi", 0), ("256Mi", 2**28), ("0.1", 1)])
def test_quantities_that_may_be_0(text: str, expected: int) -> None:
    assert optional_memory_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "Mi", "-1Mi", "0", "0Mi", "0.0Gi", "1 Mi", "nan", "inf", "1m"])
def test_odd_quantities_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="512Mi, 4Gi or auto"):
        memory_bytes(text)
