"""Rounds of DPO, each on samples of the policy that came of the round before.

Iterative DPO (Xiong et al. 2024, arXiv:2312.11456; Yuan et al. 2024, arXiv:2401.10020): the model is sampled, its
samples are judged, and DPO goes on from it, with it as the reference. In self-play (SPIN) demonstrations take the
judge's place. The first round is the second half of the recipe `paper`.
"""

from __future__ import annotations

from cai.conduct.dataset import combine, export
from cai.conduct.stages import run_stages
from cai.conduct.work import Work, checkpoint
from cai.config import RunConfig
from cai.judges.stages import judge_stages
from cai.rounds import Round, plays_itself
from cai.serving import with_policy
from cai.stepwise import parts, step_stages


async def sample(config: RunConfig, one: Round, work: Work) -> dict[str, int]:
    """Sample a trained policy, have its samples judged, and publish what the round learns from; rows a part.

    It answers the held-out prompts while it is being served.
    """
    policy = with_policy(config, one.sampled, checkpoint(config, one.sampled))
    judges = [] if plays_itself(config) else [*judge_stages(policy, one.judge)]
    beside = [f"evaluate-{one.sampled}"] if config.evaluate else []
    steps = step_stages(config, one.generate)
    await run_stages(policy, [one.generate, *beside, *judges, *steps], work)
    if judges:
        await combine(config, one.judge, work)
    return await export(config, [one.part, *(parts(config) if steps else ())], work)
