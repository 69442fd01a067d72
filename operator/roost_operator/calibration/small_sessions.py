"""The generator's sessions made as small as an engine's context, so that a check takes minutes. Pure."""

from dataclasses import replace
from itertools import islice

from roost_gateway.simulator.generator import After, Parameters, Quantiles, generate
from roost_gateway.simulator.workload import longest_context

MOST_TURNS = 12
LONGEST_GAP_SECONDS = 2.0
SAMPLED = 50
"""Sessions from which the size of a working set is known."""


def small(parameters: Parameters, context_tokens: int) -> Parameters:
    """Return parameters whose longest context is `context_tokens`; all sizes and gaps are scaled alike."""
    scale = context_tokens / parameters.longest_context

    def scaled(quantiles: Quantiles) -> Quantiles:
        return tuple(value * scale for value in quantiles)

    def after(kind: After) -> After:
        gaps = tuple(min(gap, LONGEST_GAP_SECONDS) for gap in scaled(kind.gap_seconds))
        return replace(kind, new_tokens=scaled(kind.new_tokens), gap_seconds=gaps)

    return replace(
        parameters,
        turns=tuple(min(turns, MOST_TURNS) for turns in parameters.turns),
        prefix_tokens=tuple(max(1, round(tokens * scale)) for tokens in parameters.prefix_tokens),
        first_tokens=scaled(parameters.first_tokens),
        after_tool=after(parameters.after_tool),
        after_answer=after(parameters.after_answer),
        tool_call_tokens=scaled(parameters.tool_call_tokens),
        answer_tokens=scaled(parameters.answer_tokens),
        compacted_tokens=scaled(parameters.compacted_tokens),
        longest_context=context_tokens,
    )


def working_set_tokens(parameters: Parameters, sessions: int) -> int:
    """Return about how many tokens `sessions` of these sessions come to."""
    sample = [longest_context(session) for session in islice(generate(parameters, 0), SAMPLED)]
    return sessions * sum(sample) // len(sample)
