"""Scripts name their KEYS and ARGV, and a call gives each by its name."""

import re
from importlib.resources import files

import pytest

from roost.store.keys import PoolKeys
from roost.store.known_keys import Shape
from roost.store.scripts import NAMES, SHARED, Call, script
from store_driver import POOL, begin_request, new_session

FOLDER = files("roost.store") / "scripts"


def body(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text()


def test_every_script_in_the_folder_is_known() -> None:
    assert {path.name.removesuffix(".lua") for path in FOLDER.iterdir()} == {*NAMES, *SHARED}
    with pytest.raises(KeyError):
        script("_common")


@pytest.mark.parametrize("name", NAMES)
def test_a_script_uses_the_names_that_its_head_declares(name: str) -> None:
    head, _, code = body(name).partition("\n\n")
    assert "-- Replies" in head
    wanted = script(name)
    assert set(re.findall(r"\bkeys\.(\w+)", code)) <= set(wanted.keys)
    by_kind = set(re.findall(r"'(\w+)'", code)) if "args[kind]" in code else set()
    assert set(wanted.args) - by_kind <= set(re.findall(r"\bargs\.(\w+)", code)) <= set(wanted.args)


def test_numbers_follow_texts_and_what_has_no_name_follows_both() -> None:
    wanted = script("get")
    assert wanted.arguments(Call({"tenant_sessions": "k"}, {"tenant": "t"}, ["d"], ["s"]), 0) == (
        ["k", "d"],
        ["t", "s"],
    )
    keys = {"live": "l", "live_sums": "u", "reservations": "r", "live_ends": "e", "workers": "w", "live_shares": "h"}
    asked = Call(keys, {"forget_ms": 7}, more_args=["w1"])
    assert script("workers").arguments(asked, 5) == (["w", "r", "l", "e", "h", "u"], [5, 7, "w1"])


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (Call({}, {"tenant": "t"}), ValueError),
        (Call({"tenant_sessions": "k"}, {"tenants": "t"}), KeyError),
        (Call({"tenant_sessions": "k", "workers": "w"}, {"tenant": "t"}), ValueError),
    ],
)
def test_a_call_that_does_not_fit_its_script_is_refused(call: Call, error: type[Exception]) -> None:
    with pytest.raises(error):
        script("get").arguments(call, 0)


async def test_a_script_may_touch_two_sessions(store, raw) -> None:
    """As a fork does: its helpers take the keys of the session that they work on."""
    first, second = [(await store.open(new_session())).session_id for _ in range(2)]
    await store.begin(begin_request(second, "step-1"))
    keys = PoolKeys(POOL)
    every = [Shape().keys(keys, name) for name in (first, second)]
    source = (
        "\n".join(body(part) for part in SHARED)
        + """
        local one, next_key = session_keys(1, 1, '')
        local other = session_keys(next_key, 1, '')
        local d, e = read_session(one), read_session(other, 'acme')
        return {d.epoch, e.epoch, is_whole(one, d) and is_whole(other, e) and 1 or 0}
    """
    )
    assert raw.eval(source, 12, *every[0], *every[1]) == [0, 1, 1]
