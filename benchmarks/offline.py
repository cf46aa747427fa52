"""The engine's own offline loop: recorded requests through `vllm.LLM.chat`, list by list, as fast as it goes.

    python -m benchmarks.offline TASK.json

The task holds the engine's flags, a warm-up list and named lists of requests; the result is one JSON object on
stdout. Constrained choices, logprobs, seeds and limits are those that the vLLM backend asks a server for.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from benchmarks.processes import cpu_by_role
from cai.models.base import Request


def main() -> None:
    """Run the task of the command line."""
    task = orjson.loads(Path(sys.argv[1]).read_bytes())
    os.environ.update(task["environment"])
    reply = os.dup(1)
    os.dup2(2, 1)  # vLLM writes to stdout
    started = time.monotonic()
    llm = _engine(task["flags"])
    found: dict[str, Any] = {"start_s": time.monotonic() - started, "lists": {}}
    _run(llm, [Request.model_validate(one) for one in task["warm_up"]])
    for name, requests in task["lists"].items():
        found["lists"][name] = _run(llm, [Request.model_validate(one) for one in requests])
    os.write(reply, orjson.dumps(found))


def _engine(flags: Sequence[str]) -> Any:
    """The engine that a server with these flags would hold; what only concerns HTTP is left out."""
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    known, _ = parser.parse_known_args(list(flags))
    return LLM.from_engine_args(EngineArgs.from_cli_args(known))


def _run(llm: Any, requests: Sequence[Request]) -> dict[str, Any]:
    """Answer all requests at once; what it took, and the tokens as the engine counts them."""
    chats = [[{"role": m.role, "content": m.content} for m in request.messages] for request in requests]
    tokenizer, defaults = llm.get_tokenizer(), llm.get_default_sampling_params()
    params = [_params(request, tokenizer, defaults) for request in requests]
    before, started = cpu_by_role(), time.monotonic()
    outputs = llm.chat(chats, params, use_tqdm=False)
    seconds, after = time.monotonic() - started, cpu_by_role()
    return {
        "calls": len(requests),
        "seconds": seconds,
        "prompt_tokens": sum(len(output.prompt_token_ids) for output in outputs),
        "completion_tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
        "cached_tokens": sum(output.num_cached_tokens or 0 for output in outputs),
        "cpu_s": {role: after[role] - before.get(role, 0.0) for role in after},
    }


def _params(request: Request, tokenizer: Any, defaults: Any) -> Any:
    """What the server makes of a request of the vLLM backend."""
    from vllm.sampling_params import StructuredOutputsParams

    params = defaults.clone()
    params.max_tokens, params.seed = request.max_tokens, request.seed
    params.stop = list(request.stop)
    for name in ("temperature", "top_p"):
        if (value := getattr(request, name)) is not None:
            setattr(params, name, value)
    if request.choices:
        tokens = [tokenizer.encode(choice, add_special_tokens=False) for choice in request.choices]
        assert all(len(ids) == 1 for ids in tokens), "answers of several tokens are not compared"
        params.max_tokens = 1
        params.structured_outputs = StructuredOutputsParams(choice=list(request.choices))
        if request.method != "samples":
            params.logprob_token_ids = [ids[0] for ids in tokens]
    params.__post_init__()
    return params


if __name__ == "__main__":
    main()
