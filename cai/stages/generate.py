"""Prompt → n sampled replies. A sample that cannot be used is a drop of its own; the others go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cai.config import PolicyConfig
from cai.errors import ProviderError
from cai.models.base import Request, derive_seed
from cai.rows import Drop, Message, Prompt, Reply
from cai.shard.calls import Ask, together


def generate_step(
    policy: PolicyConfig, *, seed: int, stage: str
) -> Callable[[Prompt, Ask], Awaitable[Sequence[Reply | Drop]]]:
    """The step that samples `policy.n` replies; `stage` names the draw, so that two policies never share seeds."""

    async def sample(prompt: Prompt, index: int, ask: Ask) -> Reply | Drop:
        row_id = f"{prompt.id}/r{index}"
        system = (Message(role="system", content=policy.system_prompt),) if policy.system_prompt else ()
        request = Request(
            messages=(*system, *prompt.messages),
            max_tokens=policy.sampling.max_tokens,
            temperature=policy.sampling.temperature,
            top_p=policy.sampling.top_p,
            seed=derive_seed(seed, prompt.id, stage, 0, index),
        )
        try:
            completion, call = await ask(request)
        except ProviderError as error:
            if error.fatal:
                raise
            return Drop(id=row_id, stage=stage, reason=error.kind, detail=str(error))
        text = completion.text.strip()
        if completion.finish_reason != "stop":
            reason = {"length": "truncated", "refusal": "refused"}.get(
                completion.finish_reason, "content_filter"
            )
            return Drop(id=row_id, stage=stage, reason=reason, detail=f"call {call}")
        if not text:
            return Drop(id=row_id, stage=stage, reason="empty_reply", detail=f"call {call}")
        return Reply(
            id=row_id,
            prompt=prompt,
            sample=index,
            text=text,
            finish_reason=completion.finish_reason,
            model=completion.model,
            calls=(call,),
        )

    async def step(prompt: Prompt, ask: Ask) -> Sequence[Reply | Drop]:
        return await together([sample(prompt, index, ask) for index in range(policy.n)])

    return step
