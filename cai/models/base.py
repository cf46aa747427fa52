"""The one protocol that every backend speaks: a `Request` goes in, a `Completion` comes out.

Stages know only this module. A request is a value: its digest (with the model's identity) is the key
under which the journal keeps the reply, so everything that can change a reply must be a field of it.
"""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from typing import Any, Protocol

import orjson

from cai.config import ModelConfig
from cai.errors import ConfigError
from cai.rows import FinishReason, Message, Row, VerdictMethod


class Request(Row):
    """One call to a chat model.

    `choices`: the reply must be exactly one of these short strings; where the backend gives logprobs, the
    completion carries `choice_probs` over them. `schema_`: a JSON Schema that the reply must follow.
    At most one of the two is set. `method`: how the choice is asked for, by the answer token's `logprobs`, as
    JSON with a `stated` confidence, or as one of several `samples`; None: logprobs where the model gives them,
    else stated. `temperature`/`top_p` None: leave the provider's default.
    `seed`: 63-bit, derived from (run seed, row id, stage, round, sample); None where a backend takes none.
    `attempt`: 0, then 1, 2 … when an unparsable reply is asked again; part of the key, and of the seed.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    choices: tuple[str, ...] = ()
    method: VerdictMethod | None = None
    schema_: dict[str, Any] | None = None
    attempt: int = 0

    def key(self, model_identity: str) -> str:
        """Content address of this call: 32 hex digits over the model identity and every field."""
        body = orjson.dumps([model_identity, vars(self)], default=vars, option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(body, digest_size=16).hexdigest()


class Usage(Row):
    """Tokens of one call as the provider counts them.

    Part of `prompt_tokens` are `cached_tokens`, read from a prompt cache, and `cached_write_tokens`, written to it.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cached_write_tokens: int = 0


class Completion(Row):
    """The reply to a request.

    `text`: of a request with `choices`, the choice alone where the reply is one, else all that the model said.
    `choice_probs`: for such a request, the probability of each choice, summing to 1; None where the reply is
    not one of them, and for samples, which are counted by who asked. `choice_method`: how the choice was asked
    for; None exactly for a request without choices. `cost`: US dollars, None where no price is known.
    `model`: as the provider names it. `defused`: turn tokens in the messages that were broken up on the way.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    model: str
    choice_probs: dict[str, float] | None = None
    choice_method: VerdictMethod | None = None
    cost: float | None = None
    defused: int = 0


class ChatModel(Protocol):
    """A chat model behind some backend."""

    @property
    def identity(self) -> str:
        """What the journal key depends on: backend, model name or digest of local weights; no endpoint."""

    async def complete(self, request: Request) -> Completion:
        """Answer one request. Raises ProviderError once the retry policy has given up."""

    async def close(self) -> None:
        """Release connections; the model cannot be used afterwards."""


class Attempts(Protocol):
    """Who bounds and counts what the calls made for it take; told of each attempt as it goes."""

    def begins(self, hold: Request | None = None) -> None:
        """An attempt is about to be sent. Raises BudgetError where none may be sent any more.

        `hold`: what this request may use counts as used until it `ends`, as its reply may be a day away.
        """

    def joins(self, request: Request) -> None:
        """The reply of an attempt that was counted before is waited for, and held like one of one's own."""

    def failed(self, why: str) -> None:
        """An attempt has ended without a reply; `why`: as AttemptFailed has it."""

    def ends(self, request: Request) -> None:
        """What was held for a request is let go."""

    def aside(self, change: int) -> None:
        """A call begins to wait out a failure (1) or goes on (-1): meanwhile it uses nothing."""


attempts: ContextVar[Attempts | None] = ContextVar("attempts", default=None)
"""Set by who makes calls, for the calls made in its context."""


def gives_logprobs(config: ModelConfig) -> bool:
    """True where the model's answers come with logprobs: not Anthropic's, nor those with `logprobs: false`."""
    return config.backend != "anthropic" and config.logprobs


def require_logprobs(config: ModelConfig, method: VerdictMethod | None) -> None:
    """Refuse to ask for logprobs where there are none. Raises ConfigError."""
    if method != "logprobs" or gives_logprobs(config):
        return
    why = "anthropic gives no logprobs" if config.backend == "anthropic" else "it is set to logprobs: false"
    raise ConfigError(
        f"{config.model}: judge.method is logprobs, but {why}; set judge.method to stated or samples"
    )


def derive_seed(run_seed: int, row_id: str, stage: str, round_: int = 0, sample: int = 0) -> int:
    """63-bit seed from what names the draw, and nothing else: the order of completion cannot change it."""
    body = f"{run_seed}\x1f{row_id}\x1f{stage}\x1f{round_}\x1f{sample}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(body, digest_size=8).digest(), "big") >> 1
