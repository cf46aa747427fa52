"""The three backends against a loopback server that speaks their wire formats."""

from __future__ import annotations

import asyncio
import email.utils
import math
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import orjson
import pytest

from cai.config import ModelConfig, PriceConfig
from cai.errors import ConfigError, ProviderError, ProviderErrorKind
from cai.models import check_model, check_sampling, open_model, probe, retry
from cai.models.base import ChatModel, Request
from cai.rows import Message
from tests.wire import Answer, Fault, Spoilt, Wire, asked_choices, verdict_fields, wire_server

pytestmark = pytest.mark.anyio
KEY = "sk-very-secret"
Backend = Literal["vllm", "openai", "anthropic"]
BACKENDS: tuple[Backend, ...] = ("vllm", "openai", "anthropic")
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop that is supported."""
    return "asyncio"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A key for every backend, and backoff in milliseconds."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "TOY_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setattr(retry, "BASE_S", 0.002)
    monkeypatch.setattr(retry, "CAP_S", 0.02)
    yield


def config(backend: Backend, server: Wire, **changes: Any) -> ModelConfig:
    """A model of the loopback server."""
    endpoint = server.openai_url if backend == "openai" else server.url
    fields = {"backend": backend, "model": "toy", "endpoint": endpoint, "deadline_s": 5, **changes}
    if backend == "vllm":
        fields = {"api_key_env": "TOY_KEY", **fields}
    return ModelConfig.model_validate(fields)


@asynccontextmanager
async def opened(backend: Backend, server: Wire, **changes: Any) -> AsyncIterator[ChatModel]:
    """The model, closed at the end."""
    model = open_model("toy", config(backend, server, **changes))
    try:
        yield model
    finally:
        await model.close()


def ask(text: str = "hello there", **fields: Any) -> Request:
    """A request with a system turn."""
    messages = (Message(role="system", content="be kind"), Message(role="user", content=text))
    return Request.model_validate({"messages": messages, "max_tokens": 32, **fields})


@every_backend
async def test_a_reply_with_all_its_fields(backend: Backend) -> None:
    """Text, finish reason, usage with cached tokens, cost and model come through."""
    price = PriceConfig(input=1.0, output=10.0, cached_input=0.5)
    async with (
        wire_server(reply=lambda body: Answer("four words long reply", finish="length")) as server,
        opened(backend, server, price=price) as model,
    ):
        done = await model.complete(ask(stop=("END",)))
    assert done.text == "four words long reply"
    assert done.finish_reason == "length"
    assert done.model == "toy"
    assert (done.usage.completion_tokens, done.usage.cached_tokens) == (4, 1)
    fresh = done.usage.prompt_tokens - 1
    assert done.cost == pytest.approx((fresh * 1.0 + 0.5 + 4 * 10.0) / 1e6)
    assert done.choice_probs is None
    assert done.choice_method is None
    body = server.requests[0]
    assert body["max_tokens"] == 32
    assert body["stop_sequences" if backend == "anthropic" else "stop"] == ["END"]
    assert ("system" in body) == (backend == "anthropic")


@pytest.mark.parametrize("backend", ["vllm", "openai"])
async def test_sampling_reaches_the_server(backend: Backend) -> None:
    """Seed, temperature and top_p are sent as given; what is None is left out."""
    async with wire_server() as server, opened(backend, server) as model:
        one = await model.complete(ask(seed=2**62, temperature=0.5, top_p=0.9))
        two = await model.complete(ask(seed=2**62, temperature=0.5, top_p=0.9))
        other = await model.complete(ask(seed=7))
    assert one.text == two.text != other.text
    assert (server.requests[0]["seed"], server.requests[0]["temperature"]) == (2**62, 0.5)
    assert server.requests[0]["top_p"] == 0.9
    assert not {"temperature", "top_p", "stop"} & server.requests[2].keys()


@every_backend
async def test_choices_have_probabilities(backend: Backend) -> None:
    """They are normalised over the choices, and say whether they were measured or stated."""
    probs = {"A": 0.6, "B": 0.2, "C": 0.2}
    async with (
        wire_server(reply=lambda body: Answer("A", probs)) as server,
        opened(backend, server) as model,
    ):
        done = await model.complete(ask(choices=("A", "B")))
    assert done.text == "A"
    assert done.finish_reason == "stop"
    assert done.choice_probs is not None
    assert math.fsum(done.choice_probs.values()) == pytest.approx(1)
    expected = {"vllm": 0.75, "openai": 0.75, "anthropic": 0.6}[backend]
    assert done.choice_probs["A"] == pytest.approx(expected)
    assert done.choice_method == ("stated" if backend == "anthropic" else "logprobs")


async def test_openai_without_logprobs_states_its_choice() -> None:
    """A model that gives no logprobs is asked for a JSON verdict instead; prose is no verdict."""
    verdicts = ['{"answer": "B", "confidence": 0.9}', "I prefer B."]
    async with (
        wire_server(reply=lambda body: Answer(verdicts[len(server.requests) - 1])) as server,
        opened("openai", server, logprobs=False) as model,
    ):
        done = await model.complete(ask(choices=("A", "B")))
        prose = await model.complete(ask(choices=("A", "B")))
    assert done.choice_probs == {"A": pytest.approx(0.1), "B": 0.9} and done.choice_method == "stated"
    assert done.text == "B" and prose.choice_probs is None
    assert (
        "logprobs" not in server.requests[0]
        and server.requests[0]["response_format"]["type"] == "json_schema"
    )


async def test_vllm_asks_for_the_tokens_of_the_choices() -> None:
    """One-token choices are constrained and scored by token id; the ids are looked up once."""
    async with wire_server() as server, opened("vllm", server) as model:
        await asyncio.gather(*(model.complete(ask(str(i), choices=("A", "B"))) for i in range(8)))
    body = server.requests[0]
    assert body["structured_outputs"] == {"choice": ["A", "B"]}
    assert (body["logprob_token_ids"], body["max_tokens"]) == ([65, 66], 1)


@pytest.mark.parametrize("backend", ["vllm", "openai"])
async def test_choices_of_several_tokens(backend: Backend) -> None:
    """They are told apart by the first token; a token that begins two of them counts for neither."""
    probs = {"be": 0.3, "wor": 0.1, "b": 0.5, "": 0.1}
    async with (
        wire_server(reply=lambda body: Answer("better", probs)) as server,
        opened(backend, server) as model,
    ):
        done = await model.complete(ask(choices=("better", "worse", "both")))
    assert done.choice_probs == pytest.approx({"better": 0.75, "worse": 0.25, "both": 0.0})
    assert "logprob_token_ids" not in server.requests[0]


@pytest.mark.parametrize("backend", ["vllm", "openai"])
async def test_an_answer_without_any_choice_has_no_probabilities(backend: Backend) -> None:
    """Missing mass is not spread evenly: there is no verdict."""
    async with (
        wire_server(reply=lambda body: Answer("S", {"S": 0.9, "s": 0.1})) as server,
        opened(backend, server) as model,
    ):
        done = await model.complete(ask(choices=("A", "B")))
    assert done.choice_probs is None
    assert done.choice_method == "logprobs"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A", 0.75), (" A\n", 0.75), ("A.", 0.75), ("A better", None), ("AB", None), ("The", None), ("", None)],
)
async def test_only_a_whole_answer_is_a_choice(text: str, expected: float | None) -> None:
    """Likely letters at the first token do not make an answer of a sentence that begins with one."""
    answer = Answer(text, {"A": 0.6, "B": 0.2, "The": 0.2}, finish="length")
    async with wire_server(reply=lambda body: answer) as server, opened("openai", server) as model:
        done = await model.complete(ask(choices=("A", "B")))
    assert (done.choice_probs or {}).get("A") == (None if expected is None else pytest.approx(expected))
    assert (done.text, done.finish_reason) == (("A", "stop") if expected else (text, "length"))


@every_backend
async def test_a_confidence_can_be_asked_of_any_backend(backend: Backend) -> None:
    """Then every backend is sent the schema of the verdict, and no logprobs are asked for."""
    async with (
        wire_server(reply=lambda body: Answer("B", {"B": 0.9})) as server,
        opened(backend, server) as model,
    ):
        done = await model.complete(ask(choices=("A", "B"), method="stated"))
    assert done.choice_probs == {"A": pytest.approx(0.1), "B": 0.9}
    assert (done.text, done.choice_method) == ("B", "stated")
    assert list(verdict_fields(server.requests[0])) == ["answer", "confidence"]
    assert not {"logprobs", "structured_outputs"} & server.requests[0].keys()


@every_backend
async def test_a_sample_is_one_constrained_answer(backend: Backend) -> None:
    """It has a text and no probability; what is no answer keeps its text."""
    texts = ["B", "B because"]
    async with (
        wire_server(reply=lambda body: Answer(texts[len(server.requests) - 1])) as server,
        opened(backend, server) as model,
    ):
        one = await model.complete(ask(choices=("A", "B"), method="samples"))
        prose = await model.complete(ask(choices=("A", "B"), method="samples"))
    assert (one.text, one.choice_probs, one.choice_method) == ("B", None, "samples")
    assert (prose.text, prose.choice_probs) == ("B because", None)
    body = server.requests[0]
    assert "logprobs" not in body and asked_choices(body) == ["A", "B"]
    assert body["max_tokens"] == 1 if backend == "vllm" else list(verdict_fields(body)) == ["answer"]


async def test_logprobs_are_refused_where_there_are_none() -> None:
    """Asking for them is an error before the call, never another method in silence."""
    async with wire_server() as server:
        for backend, changes in (
            ("anthropic", {}),
            ("openai", {"logprobs": False}),
            ("vllm", {"logprobs": False}),
        ):
            async with opened(backend, server, **changes) as model:  # type: ignore[arg-type]
                with pytest.raises(
                    ConfigError, match=r"method is logprobs, but .*; set judge\.method to stated"
                ):
                    await model.complete(ask(choices=("A", "B"), method="logprobs"))
    assert server.calls == 0


async def test_vllm_without_logprobs_states_its_choice() -> None:
    """`logprobs: false` means the same on every backend, and another place in the journal."""
    async with wire_server() as server, opened("vllm", server, logprobs=False) as model:
        done = await model.complete(ask(choices=("A", "B")))
        assert model.identity == "vllm:toy:stated"
    assert done.choice_method == "stated"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"answer": "A", "confidence": 0.8}', {"A": 0.8, "B": 0.2}),
        ('{"answer": "B", "confidence": 1.0}', {"A": 0.01, "B": 0.99}),
        ('{"answer": "A", "confidence": 0.1}', {"A": 0.5, "B": 0.5}),
        ('{"answer": "C", "confidence": 0.8}', None),
        ('{"answer": "A", "confi', None),
        ('{"answer": "A", "confidence": "NaN"}', None),
        ("A", None),
        (' {"answer": "A", "confidence": 1}\n', {"A": 0.99, "B": 0.01}),
        ('{"answer": "A", "confidence": 0}', {"A": 0.5, "B": 0.5}),
        ('{"answer": "A", "confidence": 7}', None),
        ('{"answer": "A", "confidence": -1}', None),
        ('{"answer": "A", "confidence": 1e999}', None),
        ('{"answer": "A", "confidence": true}', None),
        ('{"answer": "A", "confidence": null}', None),
        ('{"answer": "A", "confidence": "0.9"}', None),
        ('{"answer": ["A"], "confidence": 0.9}', None),
        ('{"answer": "A", "answer": "B", "confidence": 0.9}', None),
        ('{"answer": "A", "confidence": 0.9, "note": "x"}', None),
        ('[{"answer": "A", "confidence": 0.9}]', None),
        pytest.param("[" * 100_000, None, id="deep"),
        pytest.param('{"answer": "A", "confidence": ' + "9" * 5000 + "}", None, id="long"),
        ("", None),
    ],
)
def test_stated_confidence(text: str, expected: dict[str, float] | None) -> None:
    """It is clamped to what an answer can mean; a verdict that is cut off or off the list is none."""
    from cai.models.stated import read_stated

    _, probs = read_stated(text, ("A", "B"))
    assert probs == (None if expected is None else pytest.approx(expected))


@every_backend
async def test_schemas_are_sent(backend: Backend) -> None:
    """A JSON Schema goes where the protocol wants it."""
    schema = {"type": "object", "properties": {"x": {"type": "string"}}}
    async with wire_server() as server, opened(backend, server) as model:
        await model.complete(ask(schema_=schema))
    body = server.requests[0]
    if backend == "anthropic":
        assert body["output_config"]["format"] == {"type": "json_schema", "schema": schema}
    else:
        assert body["response_format"]["json_schema"]["schema"] == schema
        assert body["response_format"]["json_schema"]["strict"] is True


@every_backend
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, headers={"Retry-After": "0.05"}),
        Fault(status=429),
        Fault(status=429, headers={"retry-after-ms": "20"}),
        Fault(status=429, headers={"Retry-After": email.utils.formatdate(0, usegmt=True)}),
        Fault(status=408),
        Fault(status=500),
        Fault(status=503, headers={"Retry-After": "0"}),
        Fault(status=529),
        Fault("reset"),
        Fault("cut"),
        Fault("unended"),
        Fault("truncated"),
        Fault("html"),
        Fault("gzip"),
        Fault(status=204),
        Fault(spoil=lambda reply: orjson.dumps(reply).replace(b"reply", b"re\xffly")),
        Fault(spoil=lambda reply: orjson.dumps(reply) * 2),
        Fault(spoil=lambda reply: {"error": {"message": "the upstream is down", "code": 502}}),
        Fault(spoil=lambda reply: reply | {"usage": {"prompt_tokens": -5, "output_tokens": -5}}),
        Fault(spoil=lambda reply: reply | {"usage": {"prompt_tokens": "12", "output_tokens": "12"}}),
        Fault(spoil=lambda reply: reply | {"usage": [12]}),
    ],
)
async def test_a_passing_fault_costs_one_more_call(backend: Backend, fault: Fault) -> None:
    """The SDK does not retry beside the policy: two faults are three calls."""
    async with wire_server(faults=[fault, fault]) as server, opened(backend, server) as model:
        done = await model.complete(ask())
    assert done.text.startswith("reply")
    assert server.calls == 3


@every_backend
@pytest.mark.parametrize("kind", ["hang", "headers", "drip"])
async def test_a_hanging_server(backend: Backend, kind: Spoilt) -> None:
    """A call whose reply is not whole after timeout_s is cut off and made again."""
    async with (
        wire_server(faults=[Fault(kind)]) as server,
        opened(backend, server, timeout_s=0.3) as model,
    ):
        await model.complete(ask())
    assert server.calls == 2


@every_backend
async def test_a_reply_that_comes_twice_is_not_the_next_one_s(backend: Backend) -> None:
    """What has come over a connection that nobody waited on answers nobody."""
    async with wire_server(faults=[Fault("again")]) as server, opened(backend, server) as model:
        one = await model.complete(ask("one"))
        await asyncio.sleep(0.2)
        other = await model.complete(ask("another"))
    assert one.text != other.text and server.calls == 2


@every_backend
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(backend: Backend, status: int) -> None:
    """The key and the prompt go to nobody but the endpoint of the config; the message names both places."""
    async with wire_server() as elsewhere:
        moved = Fault(status=status, headers={"Location": f"{elsewhere.url}/v1/chat/completions"})
        async with wire_server(faults=lambda n: moved) as server, opened(backend, server) as model:
            with pytest.raises(ProviderError, match=f"redirects to {elsewhere.url}") as caught:
                await model.complete(ask())
    assert caught.value.fatal and (server.calls, elsewhere.calls) == (1, 0)


@every_backend
async def test_another_model_that_answers_is_named(backend: Backend) -> None:
    """In the completion, and once in a line; a dated snapshot of the asked one is no other."""
    said: list[str] = []
    names = ["toy-2025-01-31", "toy-20250131", "changeling", "changeling", "toy"]
    faults = [Fault(spoil=lambda reply, name=name: reply | {"model": name}) for name in names]  # type: ignore[misc]
    faults.append(Fault(spoil=lambda reply: reply | {"model": 7}))
    async with wire_server(faults=faults) as server:
        model = open_model("toy", config(backend, server), say=said.append)
        answered = [(await model.complete(ask(str(n)))).model for n in range(6)]
        await model.close()
    assert answered == [*names, "toy"]
    assert said == ["toy was asked, but a model that calls itself 'changeling' has answered"]


@pytest.mark.parametrize("backend", ["vllm", "openai"])
@pytest.mark.parametrize("value", [None, "-0.5", 5.0, 1e6, True, {}, []])
async def test_a_logprob_that_is_none(backend: Backend, value: Any) -> None:
    """Such a reply is asked for again, never read as some probability."""

    def spoil(reply: dict[str, Any]) -> dict[str, Any]:
        reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["logprob"] = value
        return reply

    async with wire_server(faults=[Fault(spoil=spoil)]) as server, opened(backend, server) as model:
        done = await model.complete(ask(choices=("A", "B")))
    assert done.choice_probs is not None and server.calls == 2


@pytest.mark.parametrize("backend", ["vllm", "openai"])
@pytest.mark.parametrize("value", [None, {}, {"content": None}, {"content": []}])
async def test_without_logprobs_there_is_no_score(backend: Backend, value: Any) -> None:
    """A choice whose logprobs are missing is an answer, and unscored."""

    def spoil(reply: dict[str, Any]) -> dict[str, Any]:
        reply["choices"][0]["logprobs"] = value
        return reply

    async with wire_server(faults=[Fault(spoil=spoil)]) as server, opened(backend, server) as model:
        done = await model.complete(ask(choices=("A", "B")))
    assert done.choice_probs is None and done.text in ("A", "B") and server.calls == 1


@every_backend
async def test_what_comes_beside_a_reply_adds_nothing(backend: Backend) -> None:
    """More choices than were asked for, and blocks that are no text; cached tokens never make a cost negative."""
    text = {"type": "thinking", "thinking": "hm"}

    def spoil(reply: dict[str, Any]) -> dict[str, Any]:
        if backend == "anthropic":
            return reply | {"content": [text, *reply["content"]]}
        usage = reply["usage"] | {"prompt_tokens_details": {"cached_tokens": 10**6}}
        return reply | {"choices": [*reply["choices"], *reply["choices"]], "usage": usage}

    price = PriceConfig(input=1.0, output=10.0, cached_input=0.5)
    async with (
        wire_server(faults=[Fault(spoil=spoil)]) as server,
        opened(backend, server, price=price) as model,
    ):
        odd, plain = await model.complete(ask()), await model.complete(ask())
    assert odd.text == plain.text and server.calls == 2
    assert odd.cost is not None and odd.cost > 0


@every_backend
@pytest.mark.parametrize("change", [{"content": 7}, {"content": [{"type": "text", "text": 7}]}])
async def test_a_text_that_is_none(backend: Backend, change: dict[str, Any]) -> None:
    """It is no reply, and asked for again."""

    def spoil(reply: dict[str, Any]) -> dict[str, Any]:
        if backend == "anthropic":
            return reply | change
        return reply | {"choices": [{"message": change, "finish_reason": "stop"}]}

    async with wire_server(faults=[Fault(spoil=spoil)]) as server, opened(backend, server) as model:
        done = await model.complete(ask())
    assert done.text.startswith("reply") and server.calls == 2


@every_backend
async def test_a_large_reply(backend: Backend) -> None:
    """Eight megabytes arrive as they are."""
    large = "x" * 8_000_000
    async with wire_server(reply=lambda body: large) as server, opened(backend, server) as model:
        done = await model.complete(ask())
    assert done.text == large and server.calls == 1


@every_backend
@pytest.mark.parametrize(
    ("fault", "attempts", "kind"),
    [
        (Fault(status=500), retry.ATTEMPTS, "retries_exhausted"),
        (Fault(status=529), retry.ATTEMPTS, "retries_exhausted"),
        (Fault("reset"), retry.ATTEMPTS, "retries_exhausted"),
        (Fault(status=429, headers={"Retry-After": "3600"}), 1, "retries_exhausted"),
        (Fault("truncated"), retry.FEW_ATTEMPTS, "malformed"),
        (Fault("html"), retry.FEW_ATTEMPTS, "malformed"),
        (Fault(status=401, message=f"bad key {KEY}"), 1, "auth"),
        (Fault(status=403), 1, "auth"),
        (Fault(status=404), 1, "not_found"),
        (Fault(status=400), 1, "bad_request"),
        (Fault(status=400, message="prompt is too long"), 1, "context_length"),
    ],
)
async def test_a_lasting_fault_ends_in_its_kind(
    backend: Backend, fault: Fault, attempts: int, kind: ProviderErrorKind
) -> None:
    """After a bounded number of attempts, in one line with model and endpoint, and without the key."""
    async with wire_server(faults=lambda n: fault) as server, opened(backend, server) as model:
        with pytest.raises(ProviderError) as caught:
            await model.complete(ask())
    assert (caught.value.kind, server.calls) == (kind, attempts)
    assert str(caught.value).startswith(f"toy at {server.url}")
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)


@every_backend
async def test_429s_are_outlived(backend: Backend) -> None:
    """More 429s than there are attempts do not lose the row."""
    faults = [Fault(status=429, headers={"Retry-After": "0"})] * (2 * retry.ATTEMPTS)
    async with wire_server(faults=faults) as server, opened(backend, server) as model:
        await model.complete(ask())
    assert server.calls == 2 * retry.ATTEMPTS + 1


@pytest.mark.parametrize("backend", ["vllm", "openai"])
async def test_a_reply_without_choices_is_malformed(backend: Backend) -> None:
    """An empty list of choices is no empty text."""
    async with wire_server(faults=lambda n: Fault("empty")) as server, opened(backend, server) as model:
        with pytest.raises(ProviderError) as caught:
            await model.complete(ask())
    assert (caught.value.kind, server.calls) == ("malformed", retry.FEW_ATTEMPTS)


@every_backend
async def test_usage_may_be_missing(backend: Backend) -> None:
    """Then the counts are zero, and the text still counts."""
    async with wire_server(faults=[Fault("no_usage")]) as server, opened(backend, server) as model:
        done = await model.complete(ask())
    assert done.text.startswith("reply")
    assert done.usage.prompt_tokens == done.usage.completion_tokens == 0


@every_backend
@pytest.mark.parametrize("choices", [(), ("A", "B")])
async def test_a_refusal_is_a_finish_reason(backend: Backend, choices: tuple[str, ...]) -> None:
    """It is not an error, not retried, and carries no verdict."""
    async with wire_server(faults=[Fault("refusal")]) as server, opened(backend, server) as model:
        done = await model.complete(ask(choices=choices))
    assert (done.finish_reason, done.choice_probs, server.calls) == ("refusal", None, 1)


@every_backend
async def test_nobody_listens(backend: Backend) -> None:
    """A few attempts, then a fatal error that asks whether the server runs."""
    async with wire_server() as server:
        pass
    async with opened(backend, server) as model:
        for call in (lambda: model.complete(ask()), lambda: probe(model)):
            with pytest.raises(ProviderError, match="check that the server runs") as caught:
                await call()
            assert (caught.value.kind, caught.value.fatal) == ("unreachable", True)


@every_backend
async def test_probe(backend: Backend) -> None:
    """It passes for a served model; else names what is served, or the variable of the key."""
    async with wire_server(models=["toy", "toy-large"], key=KEY) as server:
        async with opened(backend, server) as model:
            await probe(model)
        async with opened(backend, server, model="toi") as model:
            with pytest.raises(ProviderError, match="it serves toy, toy-large") as caught:
                await probe(model)
            assert caught.value.kind == "not_found"
    async with wire_server(key="another") as server, opened(backend, server) as model:
        with pytest.raises(ProviderError, match=r"TOY_KEY|OPENAI_API_KEY|ANTHROPIC_API_KEY") as caught:
            await probe(model)
        assert caught.value.kind == "auth"
        assert KEY not in str(caught.value)
        assert server.calls == 0


@every_backend
async def test_a_wrong_model_name(backend: Backend) -> None:
    """The first real call finds it too, and stops the run."""
    async with wire_server() as server, opened(backend, server, model="nope") as model:
        with pytest.raises(ProviderError) as caught:
            await model.complete(ask())
    assert caught.value.kind == "not_found"
    assert caught.value.fatal


@pytest.mark.parametrize("value", [None, "", "  "])
@every_backend
def test_a_missing_key(backend: Backend, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found without a call, and the message names the variable."""
    name = {"vllm": "TOY_KEY", "openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}[backend]
    monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    lost = config(backend, Wire(url="http://127.0.0.1:9"))
    with pytest.raises(ConfigError, match=name):
        check_model(lost)
    with pytest.raises(ConfigError, match=rf"models\.judge: .*{name}"):
        open_model("judge", lost)


async def test_anthropic_takes_no_sampling() -> None:
    """Temperature and top_p are refused by the check and by the model, not dropped silently."""
    async with wire_server() as server, opened("anthropic", server) as model:
        for name in ("temperature", "top_p"):
            settings: dict[str, Any] = {"temperature": None, "top_p": None, name: 0.5}
            with pytest.raises(ConfigError, match=f"anthropic takes no {name}"):
                check_sampling(config("anthropic", server), **settings)
            with pytest.raises(ConfigError):
                await model.complete(ask(**settings))
        check_sampling(config("anthropic", server), None, None)
        check_sampling(config("openai", server), 1.0, 0.5)
    assert server.calls == 0


async def test_identity_does_not_depend_on_the_endpoint() -> None:
    """A run can move to another server and keep its journal."""
    async with wire_server() as one, wire_server() as two:
        for backend in BACKENDS:
            async with opened(backend, one) as here, opened(backend, two) as there:
                assert here.identity == there.identity == f"{backend}:toy"


@every_backend
async def test_concurrency_and_a_clean_end(backend: Backend, recwarn: pytest.WarningsRecorder) -> None:
    """Connections are bounded by max_concurrency, and nothing is left open."""
    async with (
        wire_server(delay_s=0.02) as server,
        opened(backend, server, max_concurrency=5) as model,
    ):
        await asyncio.gather(*(model.complete(ask(str(i))) for i in range(20)))
    assert server.peak == 5
    assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]


def test_no_sdk_is_imported_early() -> None:
    """`import cai.models` stays cheap."""
    code = "import sys, cai.models; print({'openai', 'anthropic', 'aiohttp', 'torch', 'vllm'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_each_loop_its_own_client() -> None:
    """Models opened in one event loop after another leave no noise about closed loops."""

    async def once() -> None:
        async with wire_server() as server:
            for backend in BACKENDS:
                async with opened(backend, server) as model:
                    await model.complete(ask())

    start = time.monotonic()
    asyncio.run(once())
    asyncio.run(once())
    assert time.monotonic() - start < 30
