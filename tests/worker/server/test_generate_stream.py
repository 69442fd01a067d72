"""The order of a Generate stream, its deltas and its result."""

import grpc
import pytest

from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost_worker.server import generate, shell
from roost_worker.server.requests import sampling_params
from worker_harness import Ledger, World, reason


async def test_a_step_is_accepted_streamed_finished_and_committed(world: World):
    ids, ledger = world.script(1, "hello"), Ledger()
    stream = await world.begin(ledger, "who are you?")
    first = await stream.read()
    assert first.WhichOneof("message") == "accepted"
    await stream.until("finished")
    assert stream.out.ids == ids
    assert stream.out.text == stream.finished.text == stream.finished.content == "hello"
    assert stream.finished.finish_reason == api.FINISH_REASON_STOP
    assert stream.finished.output_tokens == len(ids)
    assert stream.finished.gpu_seconds > 0
    await world.commit(ledger, stream)
    state = await world.state()
    assert [(s.session_id, s.cached_tokens) for s in state.sessions] == [(ledger.session_id, len(ledger.ids) - 1)]


async def test_the_engine_gets_exactly_the_log_and_the_new_prompt(world: World):
    world.script(1, "one")
    ledger = Ledger()
    for _ in range(3):
        before = list(ledger.ids)
        stream = await world.step(ledger, "more")
        assert world.runner.contexts[-1] == [*before, *stream.accepted.prompt_token_ids]
    assert stream.finished.cached_tokens == len(before) - 1
    assert stream.accepted.cached_tokens == len(before) - 1


async def test_each_engine_step_is_one_delta_while_the_reader_keeps_up(world: World):
    world.script(1, "abc")
    world.gate.close()
    stream = await world.begin(Ledger())
    await stream.until("accepted")
    for number in range(4):
        world.gate.let(1)
        await stream.until("delta")
        assert len(stream.out.ids) == number + 1


async def test_text_waits_for_whole_characters(world: World):
    world.script(1, "a🦉b")
    stream = await world.begin(Ledger())
    await stream.until("finished")
    assert stream.finished.text == stream.out.text == "a🦉b"


@pytest.mark.parametrize(("stop", "text", "tokens"), [("END", "say ", 7), ("🦉", "say END of ", 15)])
async def test_a_stop_string_cuts_the_text_and_keeps_the_ids_that_completed_it(world: World, stop, text, tokens):
    ids, ledger = world.script(1, "say END of 🦉 and more"), Ledger()
    stream = await world.begin(ledger, sampling={"stop": [stop]})
    await stream.until("finished")
    assert (stream.out.text, stream.finished.text) == (text, text)
    assert stream.out.ids == ids[:tokens]
    assert (stream.finished.output_tokens, stream.finished.finish_reason) == (tokens, api.FINISH_REASON_STOP)
    assert stream.finished.stop_string == stop
    await world.commit(ledger, stream)
    before = list(ledger.ids)
    again = await world.step(ledger)
    assert world.runner.contexts[-1] == [*before, *again.accepted.prompt_token_ids]


async def test_a_stop_string_completed_by_the_last_token_is_a_stop(world: World):
    world.script(1, "ENDLESS")
    stream = await world.begin(Ledger(), sampling={"stop": ["END"], "max_tokens": 3})
    await stream.until("finished")
    assert (stream.finished.text, stream.finished.finish_reason) == ("", api.FINISH_REASON_STOP)


async def test_the_engine_stops_at_a_stop_string(world: World):
    world.script(1, "END and much more")
    world.gate.let(3)
    stream = await world.begin(Ledger(), sampling={"stop": ["END"]})
    await stream.until_tokens(3)
    world.gate.let(1)  # the draw that the engine may be at already
    await stream.until("finished")


async def test_a_held_back_beginning_of_a_stop_string_is_sent_at_the_end(world: World):
    world.script(1, "say EN")
    stream = await world.begin(Ledger(), sampling={"stop": ["END"]})
    await stream.until("finished")
    assert stream.out.text == stream.finished.text == "say EN"
    assert not stream.finished.stop_string


async def test_max_tokens_ends_with_length(world: World):
    world.script(1, "abcdef")
    stream = await world.begin(Ledger(), sampling={"max_tokens": 3})
    await stream.until("finished")
    assert (stream.finished.text, stream.finished.finish_reason) == ("abc", api.FINISH_REASON_LENGTH)


async def test_the_context_caps_max_tokens(world: World):
    world.script(1, "x" * 300, eos=False)
    stream = await world.begin(Ledger(), sampling={"max_tokens": 10_000})
    await stream.until("finished")
    assert stream.finished.finish_reason == api.FINISH_REASON_LENGTH
    assert len(stream.accepted.prompt_token_ids) + stream.finished.output_tokens == 256


async def test_ignore_eos_goes_on(world: World):
    world.script(1, "a")
    stream = await world.begin(Ledger(), sampling={"ignore_eos": True, "max_tokens": 5})
    await stream.until("finished")
    assert stream.finished.output_tokens == 5


async def test_logprobs_come_with_their_tokens(world: World):
    ids = world.script(1, "ab")
    stream = await world.begin(Ledger(), sampling={"logprobs": 1})
    await stream.until("finished")
    logprobs = [logprob for delta in stream.out.deltas for logprob in delta.logprobs]
    assert [(round(entry.logprob, 3), list(entry.top_ids)) for entry in logprobs] == [(-0.5, [token]) for token in ids]


async def test_one_shot_work_needs_no_session(world: World):
    ids = world.script(1, "once")
    streams = [await world.begin(None, attempt=api.Attempt(epoch=1, nonce=bytes([n] * 16))) for n in range(3)]
    for stream in streams:
        await stream.until("finished")
        assert stream.out.ids == ids
        await stream.commit(api.Head())
    assert not (await world.state()).sessions
    assert len(world.server.shell.attempts) == 0


async def test_equal_prompts_share_blocks_within_a_tenant_only(world: World):
    world.script(1, "ok")
    cached = []
    for number, tenant in enumerate(["a", "b", "a"]):
        stream = await world.begin(None, "x" * 50, tenant=tenant, attempt=api.Attempt(nonce=bytes([number] * 16)))
        await stream.until("finished")
        cached.append(stream.finished.cached_tokens)
    assert cached[:2] == [0, 0]
    assert cached[2] > 0


async def test_the_engine_is_asked_for_no_more_than_there_is_room(world: World):
    assert sampling_params(api.Sampling(max_tokens=50), 10, world.renderer).max_tokens == 10
    assert sampling_params(api.Sampling(max_tokens=5), 10, world.renderer).max_tokens == 5
    assert sampling_params(api.Sampling(), 10, world.renderer).max_tokens == 10


async def test_text_that_only_a_first_step_renders_is_no_text_of_the_others(world: World):
    """Gateways estimate a step's tokens by the bytes per token that workers learn."""
    world.script(1, "ok")
    ledger = Ledger()
    expected = world.server.shell.bytes_per_token
    for size in (45, 5, 5):
        stream = await world.step(ledger, "hello", system="s" * 40)
        expected += 0.1 * (size / len(stream.accepted.prompt_token_ids) - expected)
    assert world.server.shell.bytes_per_token == pytest.approx(expected)


async def test_the_lease_says_how_many_bytes_a_token_stands_for(world: World):
    """The dummy model's tokens are single bytes; its control tokens are longer, but no content becomes one."""
    assert world.server.shell.lease().max_bytes_per_token == 1


async def test_a_temperature_too_small_to_divide_by_is_none(world: World):
    assert sampling_params(api.Sampling(temperature=1e-40), 10, world.renderer).temperature == 0.0
    assert sampling_params(api.Sampling(temperature=1e-3), 10, world.renderer).temperature == pytest.approx(1e-3)


async def test_a_failed_draw_fails_the_step_with_the_reason(world: World):
    world.scripts[1] = [world.token(65), -1]
    error = await (await world.begin(Ledger())).fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_FAILED")
    assert "the script breaks here" in error.details()


async def test_a_grammar_that_the_engine_refuses_is_the_callers_fault(world: World):
    world.runner.grammar_refusal = "too many states"
    error = await (await world.begin(Ledger(), format=api.Format(json_schema='{"type": "string"}'))).fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SCHEMA")
    assert "too many states" in error.details()


@pytest.mark.parametrize(
    ("fields", "wanted", "detail"),
    [
        ({"text": "x" * 300}, "STEP_TOO_LONG", "fewer than the 256"),
        ({"text": "x" * 9000}, "STEP_TOO_LONG", "fewer than the 256"),
        ({"format": api.Format(json_schema="{")}, "INVALID_SCHEMA", ""),
        ({"format": api.Format(tool_choice=api.ToolChoice(mode=3))}, "INVALID_REQUEST", "no tools"),
        ({"sampling": {"temperature": -1}}, "INVALID_REQUEST", "sampling.temperature must be at least 0"),
        ({"sampling": {"temperature": float("nan")}}, "INVALID_REQUEST", "sampling.temperature"),
        ({"sampling": {"top_p": 0.0}}, "INVALID_REQUEST", "sampling.top_p"),
        ({"sampling": {"logit_bias": {100000: 1.0}}}, "INVALID_REQUEST", "sampling.logit_bias"),
        ({"sampling": {"logprobs": 21}}, "INVALID_REQUEST", "sampling.logprobs"),
        ({"attempt": api.Attempt(epoch=1, nonce=b"short")}, "INVALID_REQUEST", "nonce must have 16 bytes"),
    ],
)
async def test_a_step_that_cannot_be_served_says_why_and_leaves_nothing(world: World, fields, wanted, detail):
    error = await (await world.begin(Ledger(), **fields)).fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, wanted)
    assert detail in error.details()
    assert len(world.server.shell.attempts) == 0


async def test_a_message_that_cannot_be_rendered_is_refused(world: World):
    stream = world.stream()
    await stream.send(start=pb.Start(attempt=Ledger().next_attempt(), tenant="t"))
    error = await stream.fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert "at least one message" in error.details()


async def test_each_fault_point_is_passed_at_its_place(world: World, monkeypatch: pytest.MonkeyPatch):
    passed: list[str] = []
    for module in (generate, shell):
        monkeypatch.setattr(module, "fault_point", passed.append)
    world.script(1, "ab")
    world.gate.close()
    ledger = Ledger()
    stream = await world.begin(ledger)
    await stream.until("accepted")
    for count in (1, 2, 3):
        world.gate.let(1)
        await stream.until_tokens(count)
    await stream.until("finished")
    await world.commit(ledger, stream)
    assert 0 == passed.index("worker.start") < passed.index("worker.accepted") < passed.index("worker.finished")
    engine = [name for name in passed if name in ("worker.token", "worker.stop", "worker.finished")]
    assert engine == ["worker.token", "worker.token", "worker.token", "worker.stop", "worker.finished"]
    assert passed.count("worker.delta.sent") == 3
