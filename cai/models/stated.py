"""Choices of models that give no logprobs: asked for as JSON with an answer and a confidence.

Such probabilities are *stated*, not measured: the answer gets the stated confidence, clamped to [1/n, 0.99]
(below 1/n the model would contradict its own answer; nobody is surer than 0.99), the other choices share the
rest. They need calibration more than logprobs do.
"""

from __future__ import annotations

from typing import Any

import orjson

STATED_TOKENS = 1024  # room for a verdict as JSON behind the thinking that the newer models always do
SUREST = 0.99


def stated_schema(choices: tuple[str, ...]) -> dict[str, Any]:
    """The JSON Schema of a stated verdict over `choices`."""
    return {
        "type": "object",
        "properties": {
            "answer": {"type": "string", "enum": list(choices)},
            "confidence": {"type": "number", "description": "probability (0 to 1) that the answer is right"},
        },
        "required": ["answer", "confidence"],
        "additionalProperties": False,
    }


def read_stated(text: str, choices: tuple[str, ...]) -> tuple[str, dict[str, float] | None]:
    """The answer and its stated probabilities; the text as it is and None where it is not a full verdict."""
    try:
        verdict = orjson.loads(text)
        answer, confidence = verdict["answer"], float(verdict["confidence"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return text, None
    if answer not in choices or confidence != confidence:
        return text, None
    p = min(max(confidence, 1 / len(choices)), SUREST)
    rest = (1 - p) / (len(choices) - 1) if len(choices) > 1 else 0.0
    return answer, {choice: p if choice == answer else rest for choice in choices}
