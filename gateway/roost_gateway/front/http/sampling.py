"""How tokens are drawn, as OpenAI's completions and vLLM's additions to them say it."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from roost.contract.messages import Sampling
from roost_gateway.front.http.parameters import Body, Parameter, Part, ignored, refused, supported

Count = Annotated[int, Field(ge=0, lt=1 << 32)]
Real = Annotated[float, Field(allow_inf_nan=False)]


def _texts(value: object) -> object:
    return [value] if isinstance(value, str) else value


class SamplingBody(Body):
    """The sampling parameters that a body may have. Without a value the model's default counts, OpenAI's does not."""

    temperature: Real | None = None
    top_p: Real | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 32)] | None = None
    min_p: Real | None = None
    presence_penalty: Real | None = None
    frequency_penalty: Real | None = None
    repetition_penalty: Real | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    max_tokens: Count | None = None
    min_tokens: Count | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_texts)] = None
    stop_token_ids: list[Count] | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[Count, Real] | None = None

    def sampling(self, max_tokens: int | None) -> Sampling:
        """The contract's sampling; `max_tokens` is the body's limit by whatever name."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=0 if self.top_k == -1 else self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            seed=None if self.seed is None else self.seed % (1 << 64),
            max_tokens=max_tokens,
            min_tokens=self.min_tokens,
            stop=tuple(self.stop or ()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            logit_bias=self.logit_bias or {},
        )


class StreamOptions(Part):
    """What a stream tells beside the output."""

    include_usage: bool | None = None
    """A last chunk with the usage."""
    continuous_usage_stats: bool | None = None
    """The usage so far in every chunk."""


class CompletionBody(SamplingBody):
    """What the bodies of both completions have."""

    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    prompt_cache_key: str | None = None

    @property
    def options(self) -> StreamOptions:
        """The options of the stream."""
        return self.stream_options or StreamOptions()


COMPLETION_ROWS: tuple[Parameter, ...] = (
    supported(
        "model", "name or alias of a pool's model, or `namespace/name` of a pool; may be left out where there is one"
    ),
    supported("stream"),
    supported("stream_options", "`include_usage`, `continuous_usage_stats`"),
    supported("max_tokens", "the role's limit where it is left out"),
    supported("temperature", "the model's default where it is left out, and not 1"),
    supported("top_p"),
    supported("top_k", "-1 and 0 keep all"),
    supported("min_p"),
    supported("presence_penalty"),
    supported("frequency_penalty"),
    supported("repetition_penalty"),
    supported("seed"),
    supported("stop", "a text or a list"),
    supported("stop_token_ids"),
    supported("min_tokens"),
    supported("ignore_eos", "for load generators"),
    supported("logit_bias"),
    supported("prompt_cache_key", "names the client's conversation, where no header does"),
    ignored("store", "sessions are kept anyway, until they expire"),
    ignored("metadata"),
    ignored("user"),
    ignored("safety_identifier"),
    ignored("service_tier"),
    ignored("prompt_cache_retention", "the pool's retention counts"),
    refused("use_beam_search", "tokens are drawn one by one", harmless=(False,)),
    refused("prompt_logprobs", "the gRPC API has log-probabilities"),
)
"""Parameters of both completions."""
