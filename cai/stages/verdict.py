"""P(a better) for a pair under a principle: one verdict for each of both orders, by one of three methods.

`logprobs` reads the constrained answer token, `stated` a JSON verdict with a confidence, `samples` counts k
sampled answers. With reasoning the judge first weighs both replies in words and answers in a second call
(Bai et al. 2022, section 4.1); under `samples` every sample weighs anew, so that p is the share of trains of
thought that end in A, not of the endings of one.

A verdict depends on what the judge answers, never on the texts it is shown: only a reply that is an answer as
a whole is read, and reasoning is only ever shown back to the judge. Nothing is repaired or guessed: a cut-off
reply, reasoning included, is a failure of that verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from cai.calls import Ask, together
from cai.config import JudgeConfig, ModelConfig
from cai.constitution import Principle
from cai.errors import ConfigError
from cai.models.base import Completion, Request, derive_seed, require_logprobs
from cai.prompts import (
    REASONING,
    Templates,
    answer_messages,
    compare_messages,
    reason_messages,
    stated_messages,
)
from cai.rows import Message, Verdict, VerdictMethod

Order = Literal["ab", "ba"]
Failure = Literal["unparsed", "refused"]
CHOICES = ("A", "B")
REASONING_TOKENS = 64  # fewer hold no thought


class Answer(NamedTuple):
    """One answer of a judge: the probability of each letter, or why there is none, and the calls that it took."""

    probs: dict[str, float] | None
    failure: Failure | None
    method: VerdictMethod | None
    calls: tuple[str, ...]


def check_method(judge: JudgeConfig, name: str, model: ModelConfig, templates: Templates) -> None:
    """Refuse a way of judging that the judge `name` cannot follow. Raises ConfigError."""
    try:
        require_logprobs(model, judge.method)
    except ConfigError as error:
        raise ConfigError(f"models.{name}: {error}") from error
    if judge.method == "samples" and judge.sampling.temperature == 0:
        raise ConfigError(
            "judge.sampling.temperature: 0 gives the same sample every time; set it to 1 for method: samples"
        )
    if judge.reasoning and judge.sampling.max_tokens < REASONING_TOKENS:
        raise ConfigError(
            f"judge.sampling.max_tokens: {judge.sampling.max_tokens} would cut every reasoning off; give "
            f"judge.reasoning at least {REASONING_TOKENS}, better 512"
        )
    if judge.reasoning and (missing := REASONING - set(templates)):
        raise ConfigError(
            f"judge.reasoning: true needs the template {min(missing)}.txt; copy it from cai/prompts/default/ "
            "into the folder of 'templates'"
        )


async def ask_verdicts(
    judge: JudgeConfig,
    name: str,
    templates: Templates,
    *,
    row_id: str,
    turns: Sequence[Message],
    a: str,
    b: str,
    principles: Sequence[Principle],
    seed: int,
    ask: Ask,
) -> list[Verdict]:
    """Ask the judge `name` about the pair in both orders under each principle, all at once.

    `turns`: the conversation that `a` and `b` reply to. `seed`: of the run; with `row_id`, principle and order
    it names the calls. Raises ProviderError where a call is given up.
    """

    async def one(principle: Principle, order: Order) -> Verdict:
        first, second = (a, b) if order == "ab" else (b, a)
        samples = range(judge.samples if judge.method == "samples" else 1)
        seeds = [derive_seed(seed, f"{row_id}/{principle.id}/{order}", "judge", 0, i) for i in samples]
        # one nonce for all samples: they answer one prompt, which an engine reads once
        render = reason_messages if judge.reasoning else compare_messages
        question = render(templates, principle, turns, first, second, str(seeds[0]))
        answers = await together([_answer(judge, templates, question, s, ask) for s in seeds])
        p, failure = _count(answers, "A" if order == "ab" else "B")
        return Verdict(
            judge=name,
            principle=principle.id,
            order=order,
            p=p,
            method=judge.method or next((a.method for a in answers if a.method), "logprobs"),
            failure=failure,
            calls=tuple(call for answer in answers for call in answer.calls),
        )

    orders: tuple[Order, ...] = ("ab", "ba")
    return await together([one(p, order) for p in principles for order in orders])


async def _answer(
    judge: JudgeConfig, templates: Templates, question: tuple[Message, ...], seed: int, ask: Ask
) -> Answer:
    """Ask for one letter, after some reasoning where the config wants it."""
    calls: tuple[str, ...] = ()
    if judge.reasoning:
        thought, call = await ask(_request(judge, question, derive_seed(seed, "", "reason")))
        calls = (call,)
        if thought.finish_reason != "stop" or not thought.text.strip():
            return Answer(None, _failure(thought), None, calls)
        question = answer_messages(templates, question, thought.text)
    if judge.method == "stated":
        question = stated_messages(templates, question)
    request = _request(judge, question, seed)
    reply, call = await ask(request.model_copy(update={"choices": CHOICES, "method": judge.method}))
    probs = reply.choice_probs
    if reply.choice_method == "samples" and reply.text in CHOICES:
        probs = {letter: float(letter == reply.text) for letter in CHOICES}
    if reply.finish_reason != "stop":
        probs = None
    return Answer(probs, None if probs else _failure(reply), reply.choice_method, (*calls, call))


def _request(judge: JudgeConfig, messages: tuple[Message, ...], seed: int) -> Request:
    return Request(
        messages=messages,
        max_tokens=judge.sampling.max_tokens,
        temperature=judge.sampling.temperature,
        top_p=judge.sampling.top_p,
        seed=seed,
    )


def _failure(completion: Completion) -> Failure:
    return "refused" if completion.finish_reason in ("refusal", "content_filter") else "unparsed"


def _count(answers: Sequence[Answer], letter: str) -> tuple[float | None, Failure | None]:
    """The mean probability of `letter` over the answers that could be read; why there is none, where most could not."""
    read = [answer.probs[letter] for answer in answers if answer.probs is not None]
    unread = [answer.failure for answer in answers if answer.probs is None]
    if len(unread) > len(read):
        return None, "refused" if unread.count("refused") * 2 > len(unread) else "unparsed"
    return math.fsum(read) / len(read), None
