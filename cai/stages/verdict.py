"""P(a better) for a pair under a principle: one verdict for each of both orders, by one of three methods.

`logprobs` reads the constrained answer token, `stated` a JSON verdict with a confidence, `samples` counts k
sampled answers. With reasoning the judge first weighs both replies in words and answers in a second call
(Bai et al. 2022, section 4.1); under `samples` every sample weighs anew, so that p is the share of trains of
thought that end in A, not of the endings of one.

A verdict depends on what the judge answers, never on the texts it is shown: only a reply that is an answer as
a whole is read, and reasoning is only ever shown back to the judge. Nothing is repaired or guessed: a cut-off
reply, reasoning included, is asked for again under the next attempt number, and after the last attempt it is a
failure of that verdict. One of several samples is asked for once: the others speak for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

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
from cai.shard.calls import ATTEMPTS, Ask, asked_again, together

Order = Literal["ab", "ba"]
Question = Callable[[Templates, Principle, Sequence[Message], str, str, str], tuple[Message, ...]]
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
    question: Question | None = None,
) -> list[Verdict]:
    """Ask the judge `name` about the pair in both orders under each principle, all at once.

    `turns`: the conversation that `a` and `b` reply to. `seed`: of the run; with `row_id`, principle and order
    it names the calls. `question`: another one than which reply is better, that `a` and `b` answer. Raises
    ProviderError where a call is given up.
    """
    render = question or (reason_messages if judge.reasoning else compare_messages)

    async def one(principle: Principle, order: Order) -> Verdict:
        first, second = (a, b) if order == "ab" else (b, a)
        samples = range(judge.samples if judge.method == "samples" else 1)
        seeds = [derive_seed(seed, f"{row_id}/{principle.id}/{order}", "judge", 0, i) for i in samples]
        # one nonce for all samples: they answer one prompt, which an engine reads once
        asked = render(templates, principle, turns, first, second, str(seeds[0]))
        answers = await together([_answer(judge, templates, asked, s, ask) for s in seeds])
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
    attempts = 1 if judge.method == "samples" else ATTEMPTS
    calls: tuple[str, ...] = ()
    if judge.reasoning:
        request = _request(judge, question, derive_seed(seed, "", "reason"))
        thought, calls = await _until(_is_whole, ask, request, attempts)
        if not _is_whole(thought):
            return Answer(None, _failure(thought), None, calls)
        question = answer_messages(templates, question, thought.text)
    if judge.method == "stated":
        question = stated_messages(templates, question)
    request = _request(judge, question, seed, CHOICES)
    reply, more = await _until(_probs, ask, request, attempts)
    probs = _probs(reply)
    return Answer(probs, None if probs else _failure(reply), reply.choice_method, (*calls, *more))


async def _until(
    usable: Callable[[Completion], object], ask: Ask, request: Request, attempts: int
) -> tuple[Completion, tuple[str, ...]]:
    """The first usable reply of so many attempts, else the last one; a refusal is not asked again."""
    reply, call = await ask(request)
    calls = [call]
    for attempt in range(1, attempts):
        if usable(reply) or _failure(reply) == "refused":
            break
        reply, call = await ask(asked_again(request, attempt))
        calls.append(call)
    return reply, tuple(calls)


def _is_whole(thought: Completion) -> bool:
    return thought.finish_reason == "stop" and bool(thought.text.strip())


def _probs(reply: Completion) -> dict[str, float] | None:
    """The probability of each letter; None where the reply is no answer."""
    if reply.finish_reason != "stop":
        return None
    if reply.choice_method == "samples" and reply.text in CHOICES:
        return {letter: float(letter == reply.text) for letter in CHOICES}
    return reply.choice_probs


def _request(
    judge: JudgeConfig, messages: tuple[Message, ...], seed: int, choices: tuple[str, ...] = ()
) -> Request:
    return Request(
        messages=messages,
        max_tokens=judge.sampling.max_tokens,
        temperature=judge.sampling.temperature,
        top_p=judge.sampling.top_p,
        seed=seed,
        choices=choices,
        method=judge.method if choices else None,
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
