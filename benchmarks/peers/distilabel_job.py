"""The job of the throughput benchmark as a distilabel pipeline: five text generations a row, one step each.

    python -m benchmarks.peers.distilabel_job --url http://127.0.0.1:8000 --rows 1000 --limit 64 --cache FOLDER

Each step asks for as many rows at a time as the concurrency allows; steps run side by side in processes of their
own, as distilabel has it, and nothing is read from or kept for another run.
"""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

from benchmarks.job import MODEL, compare_prompt, critique_prompt, questions, revise_prompt

Q, REPLY, CRITIQUE, REVISION = "{{ question }}", "{{ reply }}", "{{ critique }}", "{{ revision }}"
STEPS: tuple[tuple[str, str, tuple[str, ...], int], ...] = (
    ("reply", Q, ("question",), 256),
    ("critique", critique_prompt(Q, REPLY), ("question", "reply"), 256),
    ("revision", revise_prompt(Q, REPLY, CRITIQUE), ("question", "reply", "critique"), 256),
    ("first", compare_prompt(Q, REPLY, REVISION), ("question", "reply", "revision"), 1),
    ("second", compare_prompt(Q, REVISION, REPLY), ("question", "reply", "revision"), 1),
)


def main() -> None:
    """Run the pipeline; 1 where a row came out without an answer in either order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--cache", required=True)
    options = parser.parse_args()
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # distilabel silences it under its older name
    with Pipeline(name="bench", cache_dir=options.cache) as pipeline:
        data = [{"question": question} for question in questions(options.rows)]
        last: Any = LoadDataFromDicts(data=data, batch_size=options.limit)
        for name, template, columns, tokens in STEPS:
            llm = OpenAILLM(
                model=MODEL,
                base_url=f"{options.url}/v1",
                api_key="none",
                max_retries=0,
                generation_kwargs={"max_new_tokens": tokens},
            )
            step = TextGeneration(
                name=name,
                llm=llm,
                template=template,
                columns=list(columns),
                input_batch_size=options.limit,
                output_mappings={"generation": name, "model_name": f"{name}_model"},
                add_raw_output=False,
                add_raw_input=False,
            )
            last >> step
            last = step
    rows = pipeline.run(use_cache=False)["default"]["train"]
    answered = sum({row["first"], row["second"]} == {"A", "B"} for row in rows)
    sys.stdout.write(f"{answered} of {options.rows} rows labelled\n")
    sys.exit(answered != options.rows)


if __name__ == "__main__":
    main()
