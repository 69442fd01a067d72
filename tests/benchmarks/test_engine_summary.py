"""What the engine's benchmark concludes from the rates that it has measured."""

import pytest
from engine_summary import PHASES, Beside, Cell, Measured, judged_goals, ratios, summarise

SMALL, LARGE = Cell(1, 512, 64), Cell(8, 512, 64)


def rates(**by_engine: float) -> dict[Measured, list[float]]:
    """The same rate in every cell and phase for each engine, `engine_hog` for one beside the hog."""
    measured = {}
    for name, rate in by_engine.items():
        engine, _, hog = name.partition("_")
        for cell in (SMALL, LARGE):
            for phase in PHASES:
                measured[Measured(engine, cell, phase, Beside(hog or "nothing"))] = [rate]
    return measured


def test_a_ratio_is_one_of_medians() -> None:
    measured = {
        Measured("roost", SMALL, "decode", Beside.NOTHING): [30.0, 10.0, 90.0],
        Measured("vllm", SMALL, "decode", Beside.NOTHING): [20.0, 20.0, 1.0],
    }
    assert summarise(measured)["roost_over"]["nothing"]["vllm"]["cells"] == {"1x512+64": {"decode": 1.5}}


def test_means_are_geometric_by_phase_and_in_all() -> None:
    above = {(SMALL, "prefill"): 2.0, (LARGE, "prefill"): 8.0, (SMALL, "decode"): 1.0}
    result = ratios(above, dict.fromkeys(above, 1.0))
    assert result is not None
    assert result["geometric_mean"] == {"prefill": 4.0, "decode": 1.0, "all": 2.52}
    assert result["worst"] == {"cell": "1x512+64", "phase": "decode", "ratio": 1.0}


def test_only_what_both_were_measured_in_is_compared() -> None:
    result = ratios({(SMALL, "decode"): 1.0, (LARGE, "decode"): 9.0}, {(SMALL, "decode"): 2.0})
    assert result is not None
    assert result["cells"] == {"1x512+64": {"decode": 0.5}}
    assert ratios({(SMALL, "decode"): 1.0}, {(LARGE, "decode"): 2.0}) is None


def test_every_peer_is_compared_beside_the_same_thing() -> None:
    measured = rates(roost=10, roost_hog=5, vllm=5, vllm_hog=1, **{"roost@cfb1da5": 2})
    over = summarise(measured)["roost_over"]
    assert {name: peer["geometric_mean"]["all"] for name, peer in over["nothing"].items()} == {
        "vllm": 2.0,
        "roost@cfb1da5": 5.0,
    }
    assert {name: peer["geometric_mean"]["all"] for name, peer in over["hog"].items()} == {"vllm": 5.0}


def test_what_the_hog_costs_is_said_of_every_engine() -> None:
    shares = summarise(rates(roost=10, roost_hog=5, vllm=10, vllm_hog=2))["hog_over_quiet"]
    assert {name: share["worst"]["ratio"] for name, share in shares.items()} == {"roost": 0.5, "vllm": 0.2}


def test_goals_of_a_run_beside_the_hog() -> None:
    goals = summarise(rates(roost=11, roost_hog=4, vllm=10, vllm_hog=4))["goals"]
    assert [(goal["goal"], goal["measured"], goal["met"]) for goal in goals] == [
        ("quiet, of vLLM, worst cell", 1.1, True),
        ("quiet, of vLLM, geometric mean", 1.1, False),
        ("beside the hog, of quiet, worst cell", 0.364, False),
        ("beside the hog, of vLLM, worst cell", 1.0, True),
    ]


@pytest.mark.parametrize("measured", [{}, rates(roost=1), rates(roost=1, llamacpp=1), rates(vllm=1, vllm_hog=1)])
def test_a_goal_without_its_measurement_is_left_out(measured: dict[Measured, list[float]]) -> None:
    assert judged_goals(summarise(measured)) == []
