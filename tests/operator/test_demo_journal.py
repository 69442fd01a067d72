"""The client's journal decides what was lost, doubled or wrong."""

from dataclasses import replace
from pathlib import Path

from roost import FinishReason, Head, LoggedStep, Message, MessageRole, Sampling, Usage
from roost.contract.loghash import extend, pack_ids
from roost_operator.demo.journal import Findings, Journal, Receipt, compare
from roost_operator.demo.report import DemoResult, SpikeResult, conclusion, percentile, report
from roost_operator.demo.verify import Verification

SESSION = "n/p/" + "0" * 26
EXACT = Verification(positions=4, near_ties=0, wrong=0, largest_gap=0.0, token_exact=True)


def log(*outputs: tuple[int, ...]) -> list[LoggedStep]:
    """A log whose steps have the prompt (1, 2) and these outputs."""
    steps, log_hash, length = [], b"", 0
    for index, output in enumerate(outputs):
        log_hash, length = extend(log_hash, pack_ids([1, 2, *output])), length + 2 + len(output)
        steps.append(
            LoggedStep(
                step_id=f"step-{index}",
                index=index,
                messages=(),
                output=Message(MessageRole.ASSISTANT, f"text {index}"),
                finish_reason=FinishReason.STOP,
                usage=Usage(),
                head=Head(length, log_hash),
                sampling=Sampling(),
                format=None,
                prompt_token_ids=(1, 2),
                output_token_ids=output,
                commit_time=None,
            )
        )
    return steps


def receipt(step: LoggedStep, **changes: object) -> Receipt:
    """What a client that saw everything right notes of a step."""
    noted = Receipt(
        session=SESSION,
        step_id=step.step_id,
        index=step.index,
        streamed_ids=step.output_token_ids,
        streamed_text=step.output.content,
        text=step.output.content,
        head_length=step.head.length,
        head_hash=step.head.log_hash.hex(),
        constrained=step.index == 0,
        replayed=False,
        cached_tokens=0,
        prompt_tokens=2,
        reconstructed_tokens=0,
        failovers_worker=0,
        failovers_gateway=0,
        ttft_ms=5.0,
        queue_ms=1,
        held=False,
    )
    return replace(noted, **changes)  # type: ignore[arg-type]


def journal(path: Path, *receipts: Receipt) -> Journal:
    """A journal of steps that were all sent and answered."""
    kept = Journal(path / "journal.jsonl")
    with kept:
        for item in receipts:
            kept.send(item.session, item.step_id)
            kept.receive(item)
    return kept


def test_what_agrees_is_clean(tmp_path: Path) -> None:
    steps = log((3, 4), (5,))
    kept = journal(tmp_path, *map(receipt, steps))
    assert compare(kept, {SESSION: steps}) == Findings()
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 4


def test_a_committed_step_that_is_gone_is_lost(tmp_path: Path) -> None:
    steps = log((3,), (5,))
    findings = compare(journal(tmp_path, *map(receipt, steps)), {SESSION: steps[:1]})
    assert findings.lost == (f"{SESSION}: step-1",)
    assert compare(journal(tmp_path, receipt(steps[0])), {}).lost == (f"{SESSION}: step-0",)


def test_a_step_that_was_sent_and_never_answered_is_lost(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "journal.jsonl")
    with kept:
        kept.send(SESSION, "step-0")
    assert compare(kept, {SESSION: []}).lost == (f"{SESSION}: step-0",)


def test_a_step_that_is_there_twice_or_was_never_sent_is_doubled(tmp_path: Path) -> None:
    steps = log((3,), (5,))
    twice = [steps[0], replace(steps[1], step_id="step-0")]
    assert compare(journal(tmp_path, receipt(steps[0])), {SESSION: twice}).doubled == (f"{SESSION}: step-0",)
    assert compare(journal(tmp_path, receipt(steps[0])), {SESSION: steps}).doubled == (f"{SESSION}: step-1",)


def test_differences_between_stream_and_log_are_wrong(tmp_path: Path) -> None:
    steps = log((3, 4))
    for changes, name in (
        ({"streamed_ids": (3,)}, "token ids"),
        ({"streamed_ids": (3, 3, 4)}, "token ids"),
        ({"text": "other"}, "text"),
        ({"index": 1}, "index"),
        ({"head_length": 3}, "length"),
        ({"head_hash": "00"}, "hash"),
    ):
        findings = compare(journal(tmp_path, receipt(steps[0], **changes)), {SESSION: steps})
        assert findings.wrong == (f"{SESSION}: step-0: {name} differs",)


def test_a_log_whose_hash_does_not_follow_is_wrong(tmp_path: Path) -> None:
    steps = log((3, 4), (5,))
    changed = [replace(steps[0], prompt_token_ids=(1, 9)), steps[1]]
    (fault,) = compare(journal(tmp_path, *map(receipt, steps)), {SESSION: changed}).wrong
    assert "hash does not follow" in fault


def spike(*receipts: Receipt, **changes: object) -> SpikeResult:
    whole = SpikeResult(
        agents=1,
        steps_planned=len(receipts),
        steps_sent=len(receipts),
        receipts=receipts,
        findings=Findings(),
        return_seconds=6.25,
        hold_limit_seconds=60.0,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def result(*receipts: Receipt, **changes: object) -> DemoResult:
    whole = DemoResult(
        sessions=1,
        steps_planned=len(receipts),
        steps_sent=len(receipts),
        receipts=receipts,
        findings=Findings(),
        verification=EXACT,
        evicted=1,
        redis_restarts=1,
        killed=("worker", "gateway", "redis"),
        bfloat16={},
        stage_seconds={"start": 1.0, "agents": 2.5},
        spike=spike(),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_report_counts_what_the_journal_holds() -> None:
    first, second, third = log((3, 4), (5,), (6, 7, 8))
    document = report(
        result(
            receipt(first),
            receipt(second, cached_tokens=6, ttft_ms=10.0),
            receipt(third, reconstructed_tokens=7, failovers_worker=1, ttft_ms=90.0, queue_ms=30),
        )
    )
    assert document["passed"]
    assert (document["steps_committed"], document["steps_lost"], document["steps_doubled"]) == (3, 0, 0)
    assert (document["generated_tokens"], document["unconstrained_tokens"]) == (6, 4)
    assert (document["reconstructed"], document["reconstructed_tokens"], document["failovers_worker"]) == (1, 7, 1)
    assert document["ttft_ms"] == {"hot": {"p50": 10.0, "p99": 10.0}, "cold": {"p50": 90.0, "p99": 90.0}}
    assert document["ttft_after_queue_ms"]["cold"]["p50"] == 60.0
    assert document["wall_seconds"] == 3.5
    assert document["cached_token_ratio"] == round(6 / 19, 4)


def test_anything_amiss_fails_the_demo() -> None:
    (step,) = log((3,))
    assert result(receipt(step)).passed
    assert not result(receipt(step), steps_planned=2).passed
    assert not result(receipt(step), killed=("worker", "redis")).passed
    assert not result(receipt(step), verification=replace(EXACT, token_exact=False)).passed
    for name in ("lost", "doubled", "wrong"):
        assert not result(receipt(step), findings=Findings(**{name: ("x",)})).passed
    assert report(result(receipt(step), steps_planned=3))["steps_lost"] == 2
    unanswered = result(receipt(step), steps_planned=2, steps_sent=2, findings=Findings(lost=("x",)))
    assert report(unanswered)["steps_lost"] == 1


def test_the_report_says_how_the_spike_went() -> None:
    first, second = log((3,), (5,))
    waited = (receipt(first, queue_ms=9_000), receipt(second, queue_ms=4_000, held=True, reconstructed_tokens=7))
    document = report(result(receipt(first), spike=spike(*waited)))
    assert document["passed"]
    assert document["spike"] == {
        "passed": True,
        "agents": 1,
        "steps_committed": 2,
        "steps_lost": 0,
        "steps_doubled": 0,
        "steps_wrong": 0,
        "steps_held": 1,
        "reconstructed_tokens": 7,
        "return_seconds": 6.2,
        "longest_wait_seconds": 9.0,
        "longest_hold_seconds": 4.0,
        "hold_limit_seconds": 60.0,
    }
    assert "1 agents returned at once and waited 9.0 s at most" in conclusion(document)


def test_anything_amiss_in_the_spike_fails_the_demo() -> None:
    (step,) = log((3,))
    lost_and_wrong = Findings(lost=("x",), wrong=("y", "z"))
    cases = (
        (spike(receipt(step), findings=Findings(doubled=("x",))), "1 doubled in the spike"),
        (spike(receipt(step), findings=lost_and_wrong), "1 lost in the spike, 2 wrong in the spike"),
        (spike(receipt(step), steps_planned=2), "1 lost in the spike"),
        (spike(receipt(step), steps_planned=2, steps_sent=2), "not every agent of the spike had its answer"),
        (spike(receipt(step, queue_ms=66_000, held=True)), "a step was held for 66.0 s in the spike"),
    )
    for failed, fault in cases:
        document = report(result(receipt(step), spike=failed))
        assert not document["passed"]
        assert not document["spike"]["passed"]
        assert conclusion(document) == f"Failed: 1 steps of 1 sessions are committed; {fault}."


def test_only_waits_at_the_gate_are_bounded_by_the_longest_hold() -> None:
    (step,) = log((3,))
    assert spike(receipt(step, queue_ms=66_000)).passed
    assert spike(receipt(step, queue_ms=64_000, held=True)).passed


def test_the_conclusion_names_every_fault() -> None:
    (step,) = log((3,))
    assert conclusion(report(result(receipt(step)))) == (
        "Passed: 1 steps of 1 sessions are committed, none lost, doubled or changed; "
        "each of the 1 tokens is the oracle's choice; 1 agents returned at once and waited 0.0 s at most."
    )
    inexact = replace(EXACT, token_exact=False)
    findings = Findings(lost=("x",), wrong=("y", "z"))
    failed = conclusion(report(result(receipt(step), killed=("worker",), verification=inexact, findings=findings)))
    assert failed == (
        "Failed: 1 steps of 1 sessions are committed; 1 lost, 2 wrong, no gateway was killed while steps ran, "
        "no redis was killed while steps ran, some tokens are not the oracle's choice."
    )
    assert "not every step was answered" in conclusion({**report(result(receipt(step))), "passed": False})


def test_percentiles_are_nearest_ranks() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([float(value) for value in range(100)], 0.5) == 50.0
    assert percentile([float(value) for value in range(100)], 0.99) == 99.0
