"""The stages that ask no model: prompts, labels, grades by rules. They leave the same files as any other stage."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from cai.config import RunConfig, SourceConfig
from cai.evaluate.grade import grade_embedded
from cai.judges.stages import combined, combined_digests, labelled_file
from cai.pipeline import digest, inputs, rows_file
from cai.preferences import pairs_of, replayed
from cai.process import allow_open_files
from cai.rows import Drop, Judgment, Prompt, Reply, Revision, Row
from cai.runfolder.revisions import COMMIT
from cai.shard import ShardReport, finished, shard_paths, write_manifest
from cai.sources import read_prompts, shard_of
from cai.stages.pairs import demonstrations
from cai.stepwise import PART, STEPS, rows_of
from cai.store import BUFFER, RowsWriter, file_sha256, read_rows, write_json
from cai.store.seen import Seen
from cai.target import demonstrations_within, pairs_within, read_reached

BUFFERS = 1 << 24  # bytes held for all shards that prompts are sorted into …
SMALLEST_BUFFER = 1 << 13  # … and at least for each file


class ShardWriter:
    """Writes the rows, drops and manifest of one shard; a context manager. Nothing shows before `publish`."""

    def __init__(self, root: Path, stage: str, shard: int, buffer: int = BUFFER) -> None:
        self._stage, self._shard = stage, shard
        self._paths = shard_paths(root, stage, shard)
        self._kept, self._dropped = (
            RowsWriter(self._paths.rows, buffer),
            RowsWriter(self._paths.drops, buffer),
        )
        self._reasons: Counter[str] = Counter()
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.discard()
        self._dropped.discard()

    def add(self, row: Row) -> None:
        """Keep a row, or a drop under its reason."""
        if isinstance(row, Drop):
            self._reasons[row.reason] += 1
            self._dropped.write(row)
        else:
            self._kept.write(row)

    def publish(self, inputs_digest: str) -> ShardReport:
        """Put rows, drops and manifest in place; every row that came in is one of the two."""
        report = ShardReport(
            stage=self._stage,
            shard=self._shard,
            inputs_digest=inputs_digest,
            rows_in=self._kept.rows + self._dropped.rows,
            rows_out=self._kept.rows,
            drops=dict(sorted(self._reasons.items())),
            calls_made=0,
            calls_replayed=0,
            failed_calls={},
            prompt_tokens=0,
            completion_tokens=0,
            cached_tokens=0,
            cost=0.0,
            cost_made=0.0,
            corrupt_lines=0,
            seconds=round(time.monotonic() - self._started, 3),
            skipped=False,
            rows=self._kept.publish(),
            dropped=self._dropped.publish(),
            rows_used=self._kept.rows,
            rows_lost=self._dropped.rows,
        )
        write_manifest(self._paths.manifest, report)
        return report


def publish_rows(root: Path, stage: str, shard: int, inputs_digest: str, rows: Iterable[Row]) -> ShardReport:
    """Publish one shard, unless its manifest says that it was made from the same inputs."""
    if (done := finished(shard_paths(root, stage, shard), inputs_digest)) is not None:
        return done
    with ShardWriter(root, stage, shard) as writer:
        for row in rows:
            writer.add(row)
        return writer.publish(inputs_digest)


def prompt_rows(config: RunConfig) -> Iterator[Prompt | Drop]:
    """The prompts of a run and what is no prompt, in the order of its sources.

    A prompt that the evaluation holds out is dropped as `held_out`: no model may learn from it.
    """
    kept_back = config.evaluate.sources if config.evaluate else ()
    with contextlib.closing(Seen()) as held_out:
        for row in read_prompts(kept_back):
            if isinstance(row, Prompt):
                held_out.add(_content(row))
        for row in read_prompts(config.prompts):
            kept = not kept_back or isinstance(row, Drop) or _content(row) not in held_out
            yield row if kept else Drop(id=row.id, stage="prompts", reason="held_out")


def write_prompts(config: RunConfig) -> list[ShardReport]:
    """Read all sources once and publish the prompts, each in the shard that its id hashes to, with the drops."""
    kept_back = config.evaluate.sources if config.evaluate else ()
    origins = (config.prompts, kept_back)
    return _publish_prompts(config.root, "prompts", lambda: prompt_rows(config), origins, config.shards)


def write_held_out(config: RunConfig, sources: Sequence[SourceConfig]) -> ShardReport:
    """Publish the held-out prompts of the evaluation, as one shard."""
    return _publish_prompts(config.root, "held-out", lambda: read_prompts(sources), (sources,), 1)[0]


def _content(prompt: Prompt) -> bytes:
    """Digest of a conversation, blind to case and white space."""
    turns = "\x1f".join(f"{turn.role}:{' '.join(turn.content.lower().split())}" for turn in prompt.messages)
    return hashlib.blake2b(turns.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _publish_prompts(
    root: Path,
    stage: str,
    rows: Callable[[], Iterable[Prompt | Drop]],
    origins: Sequence[Sequence[SourceConfig]],
    shards: int,
) -> list[ShardReport]:
    """Publish what `rows` reads from `origins`, unless the files there are those that were read before."""
    files = [_state_of(source) for group in origins for source in group]
    settings = [[source.model_dump(exclude={"licence", "revision"}) for source in group] for group in origins]
    depends = digest(settings, files, shards)
    if None not in files:  # what a dataset holds that is at no commit is only known by reading it
        done = [finished(shard_paths(root, stage, shard), depends) for shard in range(shards)]
        if (reports := [report for report in done if report is not None]) == done:
            return reports
    allow_open_files(2 * shards, f"shards {shards}: sorting the prompts into them")
    buffer = max(SMALLEST_BUFFER, min(BUFFER, BUFFERS // shards))
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(ShardWriter(root, stage, shard, buffer)) for shard in range(shards)]
        for row in rows():
            writers[shard_of(row.id, shards)].add(row)
        return [writer.publish(depends) for writer in writers]


def _state_of(source: SourceConfig) -> str | None:
    """What tells the content of a source: a file's digest, a dataset's commit; None where nothing does."""
    if source.path is not None:
        return file_sha256(Path(source.path))
    return source.revision if source.revision and COMMIT.fullmatch(source.revision) else None


def grade_by_rules(config: RunConfig, name: str) -> ShardReport:
    """Grade one model's held-out replies by the exact rules of the embedded world."""
    origin = f"evaluate-{name}"
    replies = read_rows(rows_file(config.root, origin, 0), Reply)
    depends = digest(inputs(config, 0, origin), "embedded")
    return publish_rows(config.root, f"grade-{name}", 0, depends, grade_embedded(replies))


def combine_judges(config: RunConfig, stage: str, shard: int) -> ShardReport:
    """Publish what the judges of a jury or a cascade add up to over one shard, as `judge`, `sft-judge` …"""
    depends = digest(combined_digests(config, stage, shard))
    if (done := finished(shard_paths(config.root, stage, shard), depends)) is not None:
        return done
    labelled = dict.fromkeys(config.judge.judges, 0)
    together = 0
    with ShardWriter(config.root, stage, shard) as writer:
        for row, said in combined(config, stage, shard):
            writer.add(row)
            together += isinstance(row, Judgment) and row.state == "labelled"
            for name, answer in zip(labelled, said, strict=True):
                labelled[name] += isinstance(answer, Judgment) and answer.state == "labelled"
        write_json(
            labelled_file(config.root, stage, shard), {"labelled": together, "judges": labelled}
        )  # before the manifest, so that a shard that is done has it
        return writer.publish(depends)


def label(config: RunConfig, stage: str, shard: int) -> ShardReport:
    """Publish a shard of `pairs`, `demonstrations`, `stepwise`, or of a later round of DPO."""
    if stage == "demonstrations":
        return _label_demonstrations(config, shard)
    if stage == PART:
        depends = digest(inputs(config, shard, STEPS))
        return publish_rows(config.root, stage, shard, depends, rows_of(config, shard))
    return _replay(config, stage, shard) if stage.endswith("-replay") else _label_pairs(config, stage, shard)


def _label_pairs(config: RunConfig, stage: str, shard: int) -> ShardReport:
    """The preference pairs of a shard, none beyond the target."""
    reached = read_reached(config)
    rows, origins = pairs_of(config, stage, shard)
    settings = [config.pairs.model_dump(mode="json"), config.judge.clamp, reached and reached.last]
    depends = digest(inputs(config, shard, *origins), *settings)
    return publish_rows(config.root, stage, shard, depends, pairs_within(reached, shard, rows))


def _replay(config: RunConfig, stage: str, shard: int) -> ShardReport:
    """The earlier pairs of a shard that a round of DPO learns from again."""
    assert config.dpo is not None
    rows, origins = replayed(config, stage, shard)
    depends = digest(inputs(config, shard, *origins), config.seed, config.dpo.replay)
    return publish_rows(config.root, stage, shard, depends, rows)


def _label_demonstrations(config: RunConfig, shard: int) -> ShardReport:
    """The SFT demonstrations of a shard, none for prompts beyond the target."""
    reached = read_reached(config)
    rows = demonstrations(
        read_rows(rows_file(config.root, "revise", shard), Revision),
        read_rows(rows_file(config.root, "judge", shard), Judgment),
        config.pairs.reply_tags,
    )
    settings = [config.pairs.model_dump(mode="json"), reached and reached.prompt]
    depends = digest(inputs(config, shard, "revise", "judge"), *settings)
    found = demonstrations_within(config, reached, shard, rows)
    return publish_rows(config.root, "demonstrations", shard, depends, found)
