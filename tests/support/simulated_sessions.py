"""Small sessions for simulations, drawn by Hypothesis or by hand."""

from hypothesis import strategies as st

from roost_gateway.simulator.arrivals import ClosedLoop
from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.policies import policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings
from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn

COSTS = WorkerCosts(chunk_tokens=16, prefill_pair_seconds=1e-5)


@st.composite
def session_lists(draw: st.DrawFn) -> list[Session]:
    """Up to eight sessions of up to five turns, of at most 150 tokens, with and without a shared prefix."""
    turns = st.builds(
        Turn,
        kept_tokens=st.sampled_from((0, 3, 10, ALL_TOKENS, ALL_TOKENS, ALL_TOKENS)),
        new_tokens=st.integers(1, 20),
        output_tokens=st.integers(1, 6),
        gap_seconds=st.sampled_from((0.0, 0.01, 0.5, 7.0, 90.0)),
        calls_tool=st.booleans(),
        recorded_seconds=st.sampled_from((None, 0.0, 0.02, 3.0)),
    )
    sessions: list[Session] = []
    for number in range(draw(st.integers(1, 8))):
        prefix = draw(st.sampled_from(("", "one", "two")))
        tokens = draw(st.integers(1, 20)) if prefix else 0
        sessions.append(Session(f"s{number}", tuple(draw(st.lists(turns, max_size=5))), prefix, tokens))
    return sessions


def simulation_of(
    sessions: list[Session],
    *,
    workers: int = 1,
    kv_tokens: int = 200,
    block_tokens: int = 4,
    policy: str = "LRU",
    population: int = 8,
    recorded_times: bool = False,
    max_running: int = 4,
    queue_timeout_seconds: float = 5.0,
    host_tokens: int = 0,
) -> Simulation:
    """A closed loop of the sessions on small workers."""
    settings = WorkerSettings(kv_tokens, block_tokens, max_running, COSTS, recorded_times, host_tokens=host_tokens)
    fleet = Fleet(workers, settings, queue_timeout_seconds)
    return Simulation(fleet, policy_factory(settings, policy), ClosedLoop(iter(sessions), population))
