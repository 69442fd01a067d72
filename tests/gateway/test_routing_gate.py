"""Where a step goes that has to pass the gate."""

from leases import lease_of
from roost_gateway.admission.admission_queue import AdmissionQueue
from roost_gateway.admission.waiting_line import Ticket
from roost_gateway.routing.choice import StepNeed, WorkerState
from roost_gateway.routing.gate import choose, is_open
from roost_gateway.routing.worker_index import WorkerIndex

LIMIT = 800


def worker(name: str, live_tokens: int, **lease: object) -> WorkerState:
    return WorkerState(lease_of(name, prefill_rate=100.0, **lease), live_tokens=live_tokens, live_limit=LIMIT)


def chosen(
    asked: StepNeed, waited_seconds: float = 0.0, excluded: frozenset[str] = frozenset(), **live_tokens: int
) -> str:
    """The worker where a step goes, of workers with so many live tokens."""
    index = WorkerIndex(worker(name, tokens) for name, tokens in live_tokens.items())
    choice = choose(index, asked, excluded, waited_seconds)
    assert choice is not None
    return choice.worker.worker_id


def need(cached: int = 400, **fields: object) -> StepNeed:
    return StepNeed("s", "", 400, 100, {"home": cached} if cached else {}, "home", **fields)


def test_the_gate_is_open_to_any_size_where_nothing_is_live() -> None:
    assert is_open(worker("w", 0), 9999)
    assert is_open(worker("w", 300), 500)
    assert not is_open(worker("w", 301), 500)


def test_a_step_goes_where_the_gate_is_open() -> None:
    assert chosen(need(cached=0), home=700, a=700, b=100) == "b"
    assert chosen(need(), home=100, a=700) == "home"


def test_it_waits_at_home_for_as_long_as_rebuilding_elsewhere_takes() -> None:
    assert chosen(need(), 3.9, home=700, open=100) == "home"
    assert chosen(need(), 4.1, home=700, open=100) == "open"
    assert chosen(need(), excluded=frozenset({"home"}), home=700, open=100) == "open", "home takes no steps"


def test_a_worker_is_chosen_where_every_gate_is_closed() -> None:
    assert chosen(need(cached=0), home=700, a=700) == "home", "the owner wins ties"
    assert chosen(need(), 99.0, home=700, a=700) == "home"


def test_a_shared_prefix_is_taken_to_be_there() -> None:
    assert need(prefix_tokens=200).gate_tokens == 300
    assert chosen(need(cached=0, prefix_tokens=200), a=500, b=501) == "a"
    assert chosen(need(cached=0, prefix_tokens=200), a=501, b=500) == "b"


def test_an_estimate_follows_from_how_fast_a_line_was_served() -> None:
    queue = AdmissionQueue()
    assert queue.estimate_seconds("a", 3, 10.0) == 0.0
    for second in (10.0, 12.0, 14.0):
        ticket = Ticket("t", 0, True, 0.0, 99.0, "a")
        queue.push(ticket, 0)
        queue.admit(ticket, second)
    assert queue.estimate_seconds("a", 1, 16.0) == 2 * (16 - 10) / 3
    assert queue.estimate_seconds("b", 1, 16.0) == 0.0
