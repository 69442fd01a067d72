"""Amounts of memory as pools give them."""

from decimal import ROUND_CEILING

import pytest
from kubernetes.utils.quantity import parse_quantity

from roost_operator.api.quantity import byte_count, memory_bytes, optional_memory_bytes


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


@pytest.mark.parametrize("suffix", ["", *"numkKMGTPE", *(f"{prefix}i" for prefix in "KMGTPE")])
@pytest.mark.parametrize("number", ["0", "1", "17", "0.5", "1.3", ".25", "3.", "+2", "1e3", "2E2", "15e-1"])
def test_any_quantity_is_what_the_client_of_kubernetes_makes_of_it(number: str, suffix: str) -> None:
    expected = parse_quantity(f"{number}{suffix}").to_integral_value(ROUND_CEILING)
    assert byte_count(f"{number}{suffix}") == min(int(expected), 2**63 - 1)


def test_a_quantity_is_at_most_what_kubernetes_makes_of_it() -> None:
    assert byte_count("8Ei") == byte_count("1e30") == byte_count("9e9999") == 2**63 - 1
    assert byte_count("1e-9999") == 1


@pytest.mark.parametrize("text", ["", "Mi", "1mi", "1Kii", "1ki", "nan", "inf", "1_000", "1 Mi", "e3", "1e99999"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        byte_count(text)


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("0Gi", 0), ("256Mi", 2**28), ("0.1", 1)])
def test_quantities_that_may_be_0(text: str, expected: int) -> None:
    assert optional_memory_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "Mi", "-1Mi", "0", "0Mi", "0.0Gi", "1 Mi", "nan", "inf", "1m"])
def test_odd_quantities_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="512Mi, 4Gi or auto"):
        memory_bytes(text)
