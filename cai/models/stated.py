"""Choices asked for as JSON: of models that give no logprobs, and wherever a stated confidence is wanted.

Such probabilities are *stated*, not measured: the answer gets the stated confidence, clamped to [1/n, 0.99]
(below 1/n the model would contradict its own answer; nobody is surer than 0.99), the other choices share the
rest. They need calibration more than logprobs do. The schema lets the model pick its confidence from a short
list: a grammar that allows any number lets a weak model write digits until it is cut off.

Reading is strict, because the reply may quote anything: one JSON object with exactly the asked fields and
nothing around it. A confidence beyond 0 to 1 is no probability, so 7 and 70 are refused, not clamped.
"""

from __future__ import annotations

import json
from typing import Any

from cai.models.base import Completion, Request

STATED_TOKENS = 1024  # room for a verdict as JSON behind the thinking that the newer models always do
SUREST = 0.99
STEP_PERCENT = 5


def stated_schema(choices: tuple[str, ...]) -> dict[str, Any]:
    """The JSON Schema of a stated verdict over `choices`."""
    steps = [step / 100 for step in range(STEP_PERCENT, 100, STEP_PERCENT) if step * len(choices) >= 100]
    confidence = {
        "type": "number",
        "enum": [*steps, SUREST],
        "description": "probability that the answer is right",
    }
    return _schema({"answer": _answer(choices), "confidence": confidence})


def sample_schema(choices: tuple[str, ...]) -> dict[str, Any]:
    """The JSON Schema of one sampled answer among `choices`."""
    return _schema({"answer": _answer(choices)})


def _answer(choices: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "string", "enum": list(choices)}


def _schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def as_json(request: Request) -> Request:
    """The request with its choices asked for as JSON, in the method of the request (None: stated)."""
    schema = (sample_schema if request.method == "samples" else stated_schema)(request.choices)
    room = max(request.max_tokens, STATED_TOKENS)
    asked = {"choices": (), "method": None, "schema_": schema, "max_tokens": room}
    return request.model_copy(update=asked)


def read_json(completion: Completion, request: Request) -> Completion:
    """The reply to `as_json(request)` as the reply to `request`; what was cut off or declined is not read."""
    method = request.method or "stated"
    text, probs = completion.text, None
    if completion.finish_reason == "stop":
        read = read_sample if method == "samples" else read_stated
        text, probs = read(completion.text, request.choices)
    return completion.model_copy(update={"text": text, "choice_probs": probs, "choice_method": method})


def read_stated(text: str, choices: tuple[str, ...]) -> tuple[str, dict[str, float] | None]:
    """The answer and its stated probabilities; the text as it is and None where it is not a full verdict."""
    verdict = _object(text, {"answer", "confidence"})
    answer, confidence = verdict.get("answer"), verdict.get("confidence")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        return text, None
    if answer not in choices or not 0 <= confidence <= 1:  # NaN is not in between either
        return text, None
    p = min(max(confidence, 1 / len(choices)), SUREST)
    rest = (1 - p) / (len(choices) - 1) if len(choices) > 1 else 0.0
    return answer, {choice: p if choice == answer else rest for choice in choices}


def read_sample(text: str, choices: tuple[str, ...]) -> tuple[str, None]:
    """The sampled answer; the text as it is where it is not one."""
    answer = _object(text, {"answer"}).get("answer")
    return (answer if answer in choices else text), None


def _object(text: str, fields: set[str]) -> dict[str, Any]:
    """The one JSON object that `text` is, with each of `fields` exactly once; {} for anything else."""
    try:
        found = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.keys() == fields else {}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is given twice")
    return found
