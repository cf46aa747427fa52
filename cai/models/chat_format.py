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
from cai.models.failures import AttemptFailed
from cai.rows import FinishReason

Json = dict[str, Any]
ChoiceOf = Callable[[str], str | None]
TOP_LOGPROBS = 20  # the most that the hosted API and vLLM's default give
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
        text = message.get("content") or refusal or ""
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
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise AttemptFailed("malformed", f"the reply lacks a usable choice ({error!r})") from error
    return Completion(
        text=text,
        finish_reason=finish,
        usage=usage,
        model=reply.get("model") or model,
        choice_probs=probs,
        choice_method=(request.method or "logprobs") if request.choices else None,
        cost=cost(usage, model, price),
    )


def read_usage(usage: Json) -> Usage:
    """Token counts of a reply; zeros where the server gives none."""
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
    )


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
            mass[choice] += math.exp(top["logprob"])
    total = math.fsum(mass.values())
    return {choice: p / total for choice, p in mass.items()} if total > 0 else None
