"""What models reply, read or refused: any text, in time that grows with its length, and never a guess."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import CaiError, ParseError
from cai.models.base import Request
from cai.models.chat_format import choice_by_text, read_chat
from cai.models.failures import AttemptFailed
from cai.models.stated import read_sample, read_stated
from cai.parse import parse_critique, parse_revision
from cai.rows import Message

PIECES = st.sampled_from(
    ["VERDICT", ":", " ", "keeps", "breaks", "break\u017f", "keep\u212a", "\n", "\r", "\u2028", "\x0b", "*", "`", ".",
     '"',
     "\u0130", "{", "}", "[", "]", '"answer"', '"A"', '"confidence"', ",", "0.9", "1e999", "NaN", "A", "B", "\\",
     "\ud800", "\u2060", "\xa0", "verdict"]
)  # fmt: skip
VERDICTS = st.tuples(
    PIECES, st.sampled_from(["\n", "\r", "\u2028", '\n"', "\n> "]), st.just("VERDICT:"), PIECES, PIECES
).map("".join)
PIECEMEAL = st.one_of(st.lists(PIECES, max_size=24).map("".join), VERDICTS, st.text(max_size=80))


@given(PIECEMEAL)
def test_critiques_are_read_or_refused(text: str) -> None:
    """Whoever reads a verdict finds the plain word on a line of its own at the end, and only there."""
    try:
        words, violated = parse_critique(text)
    except ParseError:
        return
    before, _, last = text.strip().rpartition("\n")
    word = "breaks" if violated else "keeps"
    assert last.strip(' \t\r\x0b\u2028\xa0*_`".').casefold().endswith(word)
    assert word in last.lower() and words == before.strip()


@given(PIECEMEAL)
def test_revisions_are_read_or_refused(text: str) -> None:
    """What is left is the end of what was written."""
    try:
        reply = parse_revision(text)
    except ParseError:
        return
    assert reply and text.strip().endswith(reply)


@given(PIECEMEAL)
def test_stated_verdicts_are_read_or_refused(text: str) -> None:
    """An answer only from a JSON object that is the whole reply; probabilities that are some."""
    answer, probs = read_stated(text, ("A", "B"))
    sampled, _ = read_sample(text, ("A", "B"))
    if probs is None:
        assert answer == text
    else:
        found = json.loads(text)
        assert found["answer"] == answer and set(found) == {"answer", "confidence"}
        assert sum(probs.values()) == pytest.approx(1) and all(0 < p < 1 for p in probs.values())
    assert sampled == text or json.loads(text) == {"answer": sampled}


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 2**53), st.floats(), st.text(max_size=9), st.just("A")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip
WHERE = ((), ("choices",), ("usage",), ("model",), ("choices", 0), ("choices", 0, "message"),
         ("choices", 0, "finish_reason"), ("choices", 0, "logprobs"), ("choices", 0, "message", "content"),
         ("choices", 0, "message", "refusal"), ("choices", 0, "logprobs", "content"), ("usage", "prompt_tokens"),
         ("choices", 0, "logprobs", "content", 0, "top_logprobs", 0, "logprob"),
         ("choices", 0, "logprobs", "content", 0, "token"), ("usage", "prompt_tokens_details"))  # fmt: skip


def with_value(body: Any, place: Sequence[Any], value: Any) -> Any:
    """A copy with another value at a place."""
    if not place:
        return value
    copy = list(body) if isinstance(body, list) else dict(body)
    copy[place[0]] = with_value(copy[place[0]], place[1:], value)
    return copy


@given(st.sampled_from(WHERE), JSON)
def test_replies_are_read_or_refused(place: Sequence[Any], value: Any) -> None:
    """Any JSON in any place of a reply gives a completion or AttemptFailed; a choice only where it is the reply."""
    top = [{"token": "A", "logprob": -0.1, "bytes": None}, {"token": "B", "logprob": -3.0, "bytes": None}]
    good = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "A", "refusal": None},
                     "finish_reason": "stop", "logprobs": {"content": [{"token": "A", "top_logprobs": top}]}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}},
        "model": "toy",
    }  # fmt: skip
    request = Request(messages=(Message(role="user", content="?"),), max_tokens=4, choices=("A", "B"))
    raw = json.dumps(with_value(good, place, value)).encode("utf-8", "surrogatepass")
    try:
        found = read_chat(raw, request, "toy", None)
    except AttemptFailed:
        return
    if found.choice_probs is not None:
        assert found.text in ("A", "B") and sum(found.choice_probs.values()) == pytest.approx(1)
        said = orjson.loads(raw)["choices"][0]["message"]["content"]
        assert said.strip().removesuffix(".") == found.text


@given(PIECEMEAL)
def test_tokens_mean_a_choice_or_nothing(token: str) -> None:
    """A token is a choice where it is one, or alone begins one."""
    choice = choice_by_text(("A", "B"))(token)
    assert choice is None or token.strip().removesuffix(".") == choice


@pytest.mark.parametrize(
    "piece",
    ["VERDICT: keeps\n", "*", "\n", " \n", "`" * 50 + "VERDICT", "VERDICT:" + " " * 50, "Sure, here is the revised ",
     "here's ",
     "{", "[", '{"answer": ', '"', "\\", "A", ". "],
)  # fmt: skip
def test_a_megabyte_is_read_in_its_time(piece: str) -> None:
    """Ten times the text takes about ten times as long, in every parser."""

    def stated(text: str) -> Any:
        return read_stated(text, ("A", "B"))

    parsers: list[Callable[[str], Any]] = [parse_critique, parse_revision, stated]
    for parse in parsers:
        times = []
        for size in (100_000, 1_000_000):
            text = "x" + piece * (size // len(piece))
            began = time.perf_counter()
            with contextlib.suppress(CaiError):
                parse(text)
            times.append(time.perf_counter() - began)
        assert times[1] < 60 * times[0] + 1, parse
