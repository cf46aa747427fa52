"""Models of a run config: which one, where it answers, how fast it may be asked, what it costs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from cai.config.keys import ENV_NAME, check_address, check_env_name, check_no_secret
from cai.config.section import Section

Address = Annotated[str, AfterValidator(check_address)]
EnvName = Annotated[
    str, AfterValidator(check_env_name), Field(json_schema_extra={"pattern": f"^{ENV_NAME}$"})
]  # the pattern is for forms; a validator's words repeat no key
BATCHED = 10_000  # requests in flight in mode batch, unless the config says otherwise


class PriceConfig(Section):
    """US dollars per million tokens.

    `cached_input`: read from a prompt cache; null: as `input`. `cached_write`: written to it; null: 1.25 × `input`.
    """

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0)
    cached_write: float | None = Field(None, ge=0)


class LimitsConfig(Section):
    """What the account may ask for in a minute, over all roles that use this model; each process counts for itself."""

    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _any(self) -> LimitsConfig:
        if self.requests_per_minute is None and self.tokens_per_minute is None:
            raise ValueError("give 'requests_per_minute', 'tokens_per_minute' or both")
        return self


class ManagedConfig(Section):
    """A vLLM engine that the run starts and stops. `args`: vLLM's own flags, without the leading dashes; `env`: of its
    process, beside the run's own environment, which holds the secrets: these can be given in neither.

    `in_process`: no HTTP between; the engine is driven by the run's own process, on this machine only.
    """

    args: dict[str, str | int | float | bool] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    start_timeout_s: float = Field(900, gt=0)
    in_process: bool = False

    @field_validator("args", "env")
    @classmethod
    def _no_secret(cls, values: dict[str, Any]) -> dict[str, Any]:
        check_no_secret(values, "export it in the environment, which the engine inherits")
        return values


class ModelConfig(Section):
    """A model and how to reach it.

    `model`: the provider's name for it, or a local folder with weights. `endpoint`: base URL of an
    OpenAI-compatible server (vllm) or of a proxy (openai, anthropic); `endpoints`: of several vLLM servers
    with the same model. `adapter`: folder of a LoRA adapter that a managed engine serves on top of `model`.
    `api_key_env`: name of the environment variable that holds the key, never the key itself.
    `max_concurrency`: most calls in flight; in mode `batch`, most requests in open batches, 10,000 unless set.
    `timeout_s` bounds one attempt of a live call, `deadline_s` the call with its retries, and how long an endpoint that
    answers nobody is waited for. `mode` batch: through the provider's batch API, at its discount, each batch within a
    day. `price`: of live calls; the discount comes on top. `logprobs` false: the model gives none, so as a judge it
    states its confidence.
    """

    backend: Literal["vllm", "openai", "anthropic"]
    model: str
    endpoint: Address | None = None
    endpoints: tuple[Address, ...] = ()
    managed: ManagedConfig | None = None
    adapter: str | None = None
    api_key_env: EnvName | None = None
    max_concurrency: int = Field(64, ge=1)
    timeout_s: float = Field(300, gt=0)
    deadline_s: float = Field(900, gt=0)
    limits: LimitsConfig | None = None
    mode: Literal["live", "batch"] = "live"
    logprobs: bool = True
    price: PriceConfig | None = None

    @model_validator(mode="after")
    def _reachable(self) -> ModelConfig:
        ways = [name for name in ("endpoint", "endpoints", "managed") if getattr(self, name)]
        if self.backend == "vllm" and len(ways) != 1:
            raise ValueError(
                "a vllm model needs exactly one of 'endpoint' (a running server), 'endpoints' (several) "
                "and 'managed'"
            )
        if self.backend != "vllm" and self.managed is not None:
            raise ValueError(f"'managed' starts a vLLM server; backend is {self.backend!r}")
        if self.backend != "vllm" and self.endpoints:
            raise ValueError(f"'endpoints' are vLLM servers; backend is {self.backend!r}")
        if len(set(self.endpoints)) < len(self.endpoints):
            raise ValueError(f"'endpoints' holds one of its {len(self.endpoints)} addresses twice")
        if self.adapter is not None and self.managed is None:
            raise ValueError(
                "'adapter' is served by a managed engine; a running server has it under a name: give that "
                "as 'model'"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _many_at_once(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("mode") == "batch":
            return {"max_concurrency": BATCHED} | data
        return data

    @model_validator(mode="after")
    def _batched(self) -> ModelConfig:
        if self.mode == "batch" and self.limits is not None:
            raise ValueError("'limits' are of live calls; leave them out in mode 'batch'")
        if self.managed is not None and self.managed.in_process and self.limits is not None:
            raise ValueError(
                "'limits' are of an account; an engine in this process has none, so leave them out"
            )
        if self.mode == "batch" and self.backend == "vllm":
            raise ValueError("mode 'batch' is for openai and anthropic; a vLLM server has no batch API")
        return self
