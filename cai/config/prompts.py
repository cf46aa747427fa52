"""Where the prompts of a run come from, and what its evaluation holds out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cai.config.roles import SamplingConfig
from cai.config.section import Section


class SourceConfig(Section):
    """Where prompts come from: a file, or a dataset of the Hugging Face hub.

    `format`: guessed from the file name when None; `transcript` means hh-rlhf style text in `field`
    (turns kept; a last assistant turn is cut off, so that the last human turn is the one to answer).
    `revision`: branch, tag or commit of the dataset; a run keeps to the commit that it stood for at its start.
    `field`: column that holds the prompt text, the messages list or the transcript. `licence`: under which the prompts
    were published, as the cards of exported datasets tell it; it changes no row.
    """

    path: str | None = None
    dataset: str | None = None
    revision: str | None = None
    split: str = "train"
    format: Literal["jsonl", "csv", "parquet", "text"] | None = None
    field: str | None = None
    transcript: bool = False
    tags: tuple[str, ...] = ()
    only_tags: tuple[str, ...] = ()
    limit: int | None = Field(None, ge=1)
    licence: str | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> SourceConfig:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give exactly one of 'path' (a file) and 'dataset' (a hub dataset)")
        if self.revision is not None and self.dataset is None:
            raise ValueError("'revision' is of a hub dataset; a file has none, so leave it out")
        return self


class EvaluateConfig(Section):
    """Held-out prompts, and what is made of the replies of the run's models.

    `grader`: the embedded world's exact rules, or a judge. `judge`: the model that grades and compares; null: the
    last of the run's judges. `side_by_side`: pairs of models whose replies are compared, as `[dpo, sft]`; true: each
    trained policy and the model that it started from; false: none. `divergence`: measure KL divergence from the base
    and entropy, for which the weights are loaded once more.
    """

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    grader: Literal["embedded", "judge"]
    sampling: SamplingConfig = SamplingConfig()
    judge: str | None = None
    divergence: bool = False
    side_by_side: bool | tuple[tuple[str, str], ...] = False

    @model_validator(mode="after")
    def _judge_is_asked(self) -> EvaluateConfig:
        if self.judge is not None and self.grader != "judge" and not self.side_by_side:
            raise ValueError(
                f"judge: {self.judge!r} would grade and compare nothing; set grader: judge or side_by_side: true, "
                "or leave it out"
            )
        return self
