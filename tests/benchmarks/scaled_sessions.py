"""Agents' sessions that a tiny model on two cores can serve: the simulator's generator, with sizes and pauses divided.

Pure.
"""

from dataclasses import replace
from itertools import islice

from roost_gateway.simulator.generator import Parameters, Quantiles, fitted_parameters, generate
from roost_gateway.simulator.workload import ALL_TOKENS, Session, longest_context, with_capped_gaps

TOKENS_DIVIDED_BY = 20
PAUSES_DIVIDED_BY = 5
LONGEST_CONTEXT = 128_000
"""Before it is divided. Longer sessions are left out, and so are those whose history is rewritten on the way."""


def scaled_parameters() -> Parameters:
    """The fitted distributions with every size and every pause divided."""
    fitted = fitted_parameters()
    after = {
        name: replace(
            kind,
            new_tokens=_divided(kind.new_tokens, TOKENS_DIVIDED_BY),
            gap_seconds=_divided(kind.gap_seconds, PAUSES_DIVIDED_BY),
        )
        for name, kind in (("after_tool", fitted.after_tool), ("after_answer", fitted.after_answer))
    }
    sizes = ("first_tokens", "tool_call_tokens", "answer_tokens", "compacted_tokens")
    return replace(
        fitted,
        **after,
        **{name: _divided(getattr(fitted, name), TOKENS_DIVIDED_BY) for name in sizes},
        prefix_tokens=tuple(tokens // TOKENS_DIVIDED_BY for tokens in fitted.prefix_tokens),
        longest_context=LONGEST_CONTEXT // TOKENS_DIVIDED_BY,
    )


def scaled_sessions(count: int, turns: int, longest_pause: float, seed: int) -> list[Session]:
    """The first `turns` turns of the first `count` sessions that have so many, all of which append to their history.

    No pause is longer than `longest_pause`, in seconds before they are divided.
    """
    parameters = scaled_parameters()
    begun = (replace(session, turns=tuple(islice(session.turns, turns))) for session in generate(parameters, seed))
    fitting = (session for session in begun if _is_replayed(session, turns))
    return [with_capped_gaps(session, longest_pause / PAUSES_DIVIDED_BY) for session in islice(fitting, count)]


def _is_replayed(session: Session, turns: int) -> bool:
    kept = [turn.kept_tokens for turn in session.turns]
    return kept == [ALL_TOKENS] * turns and longest_context(session) < LONGEST_CONTEXT // TOKENS_DIVIDED_BY


def _divided(values: Quantiles, by: int) -> Quantiles:
    return tuple(value / by for value in values)
