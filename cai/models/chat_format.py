"""The OpenAI chat-completions format, as the hosted API and vLLM speak it: request body, reply, logprobs.

Replies are read from the raw JSON, not through an SDK's models: what the protocol promises is checked here,
once for every server, and a reply that breaks the promise is refused instead of half read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from cai.config import PriceConfig
from cai.models.base import Completion, Request, Usage
from cai.models.cost import cost
from cai.models.failures import AttemptFailed, server_message
from cai.rows import FinishReason

Json = dict[str, Any]
ChoiceOf = Callable[[str], str | None]
MOST_TOKENS = 10**9  # a count beyond it is none
ROUNDING = 0.01  # by which a logprob may be above 0
TOP_LOGPROBS = 20  # the most that the hosted API and vLLM's default give
BROKEN_PROMISES = (KeyError, IndexError, TypeError, AttributeError, ValueError)
FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
    "content_filter": "content_filter",
}


def chat_body(request: Request, model: str, limit_field: str) -> Json:
    """The body of a chat-completions call; what the request leaves open is left to the server.

    `limit_field`: the name under which this server takes the token limit. A choice is asked for with a limit
    of few tokens, and with logprobs where it is not one of several samples.
    """
    body: Json = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        limit_field: request.max_tokens,
    }
    for name in ("temperature", "top_p", "seed"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.stop:
        body["stop"] = list(request.stop)
    if request.choices:
        longest = max(len(choice.encode()) for choice in request.choices)
        body[limit_field] = min(request.max_tokens, longest + 1)
        if request.method != "samples":
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    if request.schema_ is not None:
        schema = {"name": "reply", "schema": request.schema_, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def decode(raw: bytes) -> Json:
    """The JSON object that a reply must be. Raises AttemptFailed (malformed) for anything else."""
    try:
        reply = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        start = raw[:80].decode("utf-8", "replace")
        raise AttemptFailed("malformed", f"the reply is not JSON ({error}): {start!r}") from error
    if not isinstance(reply, dict):
        raise AttemptFailed("malformed", f"the reply is a JSON {type(reply).__name__}, not an object")
    return reply


def read_chat(
    raw: bytes, request: Request, model: str, price: PriceConfig | None, choice_of: ChoiceOf | None = None
) -> Completion:
    """A chat-completions reply as a Completion. Raises AttemptFailed (malformed).

    `choice_of`: which choice a token of the logprobs means; None: by its text. A choice counts where the whole
    reply is that choice (a full stop behind it is let pass): "A better reply…" begins with A and is no answer.
    """
    reply = decode(raw)
    try:
        answer = reply["choices"][0]
        message = answer["message"]
        refusal = message.get("refusal")
        text = said_text(message.get("content") or refusal or "")
        finish = FINISH[answer["finish_reason"]]
        usage = read_usage(reply.get("usage") or {})
        probs, said = None, text.strip().removesuffix(".")
        if refusal:
            finish = "refusal"
        elif said in request.choices:
            text = said
            finish = "stop" if finish == "length" else finish  # the limit of a choice is the choice itself
            tokens = (answer.get("logprobs") or {}).get("content") or ()
            probs = choice_probs(tokens, request.choices, choice_of or choice_by_text(request.choices))
    except BROKEN_PROMISES as error:
        raise broken_promise(reply, "lacks a usable choice", error) from error
    return Completion(
        text=text,
        finish_reason=finish,
        usage=usage,
        model=answering_model(reply, model),
        choice_probs=probs,
        choice_method=(request.method or "logprobs") if request.choices else None,
        cost=cost(usage, model, price),
    )


def read_usage(usage: Json) -> Usage:
    """Token counts of a reply; zeros where the server gives none."""
    prompt = tokens_of(usage, "prompt_tokens")
    cached = tokens_of(usage.get("prompt_tokens_details") or {}, "cached_tokens")
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=tokens_of(usage, "completion_tokens"),
        cached_tokens=min(cached, prompt),  # some proxies count them apart
    )


def tokens_of(usage: Json, name: str) -> int:
    """A token count of a reply, 0 where it is not given. Raises ValueError for anything that is no count."""
    count = usage.get(name)
    if count is None:
        return 0
    if type(count) is not int or not 0 <= count <= MOST_TOKENS:
        raise ValueError(f"usage.{name} is {count!r}")
    return count


def said_text(text: object) -> str:
    """The text of a reply. Raises TypeError where it is something else."""
    if not isinstance(text, str):
        raise TypeError(f"the text is a {type(text).__name__}")
    return text


def answering_model(reply: Json, model: str) -> str:
    """The model that has answered, as the reply names it; `model` where it names none."""
    name = reply.get("model")
    return name if isinstance(name, str) and name else model


def broken_promise(reply: Json, how: str, error: Exception) -> AttemptFailed:
    """The failure for a reply that is not what the protocol says; with the server's words where it has some."""
    told = f"; it says: {server_message(reply)}" if reply.get("error") else ""
    return AttemptFailed("malformed", f"the reply {how} ({error!r}){told}")


def choice_by_text(choices: Sequence[str]) -> ChoiceOf:
    """Reads a token's text as the one choice that it is, or that alone begins with it."""

    def choice_of(token: str) -> str | None:
        text = token.strip().removesuffix(".")
        if text in choices:
            return text
        begun = [choice for choice in choices if text and choice.startswith(text)]
        return begun[0] if len(begun) == 1 else None

    return choice_of


def choice_probs(
    tokens: Sequence[Json], choices: Sequence[str], choice_of: ChoiceOf
) -> dict[str, float] | None:
    """The probability of each choice at the answer's first visible token, renormalised over the choices.

    None where none of the listed tokens means a choice: the model did not answer in the asked form.
    """
    answer = next((token for token in tokens if token["token"].strip()), None)
    if answer is None:
        return None
    mass = dict.fromkeys(choices, 0.0)
    for top in {top["token"]: top for top in answer["top_logprobs"]}.values():
        choice = choice_of(top["token"])
        if choice is not None:
            mass[choice] += math.exp(_logprob(top["logprob"]))
    total = math.fsum(mass.values())
    return {choice: p / total for choice, p in mass.items()} if total > 0 else None


def _logprob(value: object) -> float:
    """A logprob as it is. Raises ValueError for what is none."""
    if type(value) not in (int, float) or not value <= ROUNDING:  # type: ignore[operator]
        raise ValueError(f"a logprob is {value!r}")
    return min(float(value), 0.0)  # type: ignore[arg-type]
