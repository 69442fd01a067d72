"""A step's sampling: what it sets, else what the model has as its default, else neutral."""

from collections.abc import Mapping
from dataclasses import replace

from family_models import description, tokenizer_json
from roost.v1 import session_service_pb2 as api
from roost_worker.engine.messages import SamplingParams
from roost_worker.render.renderer import Renderer
from roost_worker.render.vocabulary import Vocabulary
from roost_worker.server.requests import sampling_params

DEFAULTS = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05}


def _params(sampling: api.Sampling, defaults: Mapping[str, float]) -> SamplingParams:
    vocabulary = Vocabulary(tokenizer_json("qwen3"))
    renderer = Renderer(replace(description("qwen3"), sampling=defaults), vocabulary, len(vocabulary.token_bytes))
    return sampling_params(sampling, 10, renderer)


def _drawn(params: SamplingParams) -> dict[str, float]:
    return {name: getattr(params, name) for name in DEFAULTS}


def test_unset_fields_take_the_models_defaults() -> None:
    assert _drawn(_params(api.Sampling(), DEFAULTS)) == DEFAULTS
    assert _drawn(_params(api.Sampling(top_p=0.5, top_k=3), DEFAULTS)) == {**DEFAULTS, "top_p": 0.5, "top_k": 3}


def test_a_neutral_value_that_is_set_is_no_unset_field() -> None:
    neutral = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert _drawn(_params(api.Sampling(**neutral), DEFAULTS)) == neutral
    assert _params(api.Sampling(temperature=0.0), DEFAULTS).temperature == 0.0


def test_without_a_default_a_field_is_neutral() -> None:
    neutral = SamplingParams()
    assert _drawn(_params(api.Sampling(), {})) == _drawn(neutral)
    assert _drawn(_params(api.Sampling(), {"top_p": 0.9})) == {**_drawn(neutral), "top_p": 0.9}


def test_a_default_too_small_to_divide_by_is_greedy() -> None:
    assert _params(api.Sampling(), {"temperature": 1e-9}).temperature == 0.0


def test_an_end_token_that_the_model_cannot_draw_is_left_out() -> None:
    """A tokenizer may know more tokens than the model, and a `generation_config.json` may name another model's."""
    vocabulary = Vocabulary(tokenizer_json("qwen3"))
    known, size = description("qwen3"), len(vocabulary.token_bytes)
    ends = replace(known, eos_token_ids=(*known.eos_token_ids, size, 151_643))
    params = sampling_params(api.Sampling(), 10, Renderer(ends, vocabulary, size))
    assert params.stop_token_ids == frozenset(known.eos_token_ids)
