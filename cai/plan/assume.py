"""What a call of a stage is like before any was made: the first requests of rows with replies of the most tokens."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from cai.config import RunConfig
from cai.errors import ProviderError
from cai.judges.stages import qualified_judge, weighs_pairs
from cai.models.base import Request
from cai.pipeline import Job
from cai.plan.rates import CHARACTERS_A_TOKEN, PerCall
from cai.rounds import sampled_model
from cai.rows import Candidate, Comparison, Prompt, Reply
from cai.shard.calls import Asked
from cai.shard.results import results_of
from cai.stepwise import STEPS

ROWS = 50  # enough for the mean length of prompts


async def assumed(config: RunConfig, job: Job, prompts: Iterable[Prompt]) -> PerCall | None:
    """Tokens of a call of `job`, with stand-ins for replies of the most tokens that the policy may write.

    Prompts count four characters a token, completions as many as they may have. None for a stage that has other
    rows than prompts, replies, comparisons and labelled pairs, or draws no principle for any.
    """
    requests: list[Request] = []

    async def ask(request: Request) -> Asked:
        requests.append(request)
        raise ProviderError("not_asked", "a stand-in is never asked")

    rows = job.rows if qualified_judge(job.stage) else (_row(config, job.stage, prompt) for prompt in prompts)
    for row in islice(rows, ROWS):
        if row is not None:
            await results_of(job.stage, job.step, row, ask)
    if not requests:
        return None
    characters = sum(len(message.content) for request in requests for message in request.messages)
    one_token = requests[0].choices and requests[0].method != "stated"
    completion = 1.0 if one_token else float(requests[0].max_tokens)
    return PerCall(characters / CHARACTERS_A_TOKEN / len(requests), completion)


def _row(config: RunConfig, stage: str, prompt: Prompt) -> Any:
    """A row as the stage would get it for a prompt."""
    if stage == "generate" or sampled_model(stage) is not None or stage.startswith("evaluate-"):
        return prompt
    size = round(config.policy.sampling.max_tokens * CHARACTERS_A_TOKEN)
    a, b = f"{prompt.id}/r0", f"{prompt.id}/r1"
    if stage in ("revise", STEPS):
        return Reply(id=a, prompt=prompt, sample=0, text="x" * size, finish_reason="stop", model="", calls=())
    if not weighs_pairs(stage):
        return None
    sides = [Candidate(id=a, kind="reply", text="x" * size), Candidate(id=b, kind="reply", text="y" * size)]
    return Comparison(id=f"{a}~{b}", prompt=prompt, a=sides[0], b=sides[1])
