"""Rounds of DPO and self-play without a run: what a config may ask for, names, the draw of replays, the pairs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cai.conduct.models import train
from cai.conduct.work import HERE
from cai.config.training import evaluated
from cai.constitution import load_constitution
from cai.errors import ConfigError
from cai.judges.stages import joint_stage, judge_stages
from cai.plan.per_prompt import Shares, calls_a_prompt
from cai.preferences import replayed
from cai.report.rounds import rounds_done
from cai.rounds import is_replayed, learns_from, rounds_of, sampled_model, stages_of
from cai.rows import Demonstration, Drop, Message, Pair, Prompt, Reply
from cai.shard import shard_paths
from cai.stages.self_play import self_play, shown
from cai.store import write_rows
from tests.test_train_run import ROOT, config_of

PAPER: dict[str, Any] = {"recipe": "paper", "sft": {}}
TWO: dict[str, Any] = PAPER | {"dpo": {"rounds": 2, "replay": 0.5}}
PLAY: dict[str, Any] = PAPER | {"dpo": {"self_play": True, "rounds": 2}}
ROBUST = {"loss_type": "robust", "label_smoothing": "measured"}
M = {"backend": "vllm", "model": "w", "managed": {}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"dpo": {"rounds": 2}},
            r"dpo\.rounds: 2: samples the trained policy, which recipe 'direct' never does",
        ),
        (
            {"dpo": {"self_play": True}},
            r"dpo\.self_play: true: samples the trained policy, .*set recipe: paper",
        ),
        (PAPER | {"dpo": {"replay": 0.5}}, r"dpo: replay: 0\.5: the first round has no earlier one"),
        (PAPER | {"dpo": {"rounds": 0}}, r"dpo\.rounds: .*greater than or equal to 1"),
        (PAPER | {"dpo": {"rounds": 2, "replay": 1.1}}, r"dpo\.replay: .*less than or equal to 1"),
        (TWO | {"policy": {"model": "m", "n": 1}}, r"dpo\.rounds: 2: .* policy\.n is 1; set it to 2 or more"),
        (PLAY | {"kto": {}}, r"kto: learns from judged pairs, and with dpo\.self_play there are none"),
        (PLAY | {"reward": {}, "grpo": {}}, r"reward: learns from judged pairs"),
        (
            PAPER | {"dpo": {"self_play": True, "soft_labels": True}},
            r"soft_labels: true: no pair of self_play has a p",
        ),
        (
            PAPER | {"dpo": {"self_play": True, "args": ROBUST}},
            r"label_smoothing: measured: no pair of self_play",
        ),
        ({"spin": {}}, r"spin: SPIN is DPO in self-play; write dpo: \{self_play: true, rounds: 3\}"),
        (TWO | {"models": {"m": M, "dpo-1": M}}, r"the name 'dpo-1' is kept for the trained policy"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """Without a recipe that samples, an earlier round, a second sample, a judge; and a name that is taken."""
    with pytest.raises(ConfigError, match=problem):
        config_of(tmp_path, **changes)


def test_the_lines_of_the_documentation_are_taken(tmp_path: Path) -> None:
    """Every section that the page on trainings shows can stand in a run, with what it says that it needs."""
    text = (ROOT / "docs" / "training.md").read_text()
    found = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]
    rounds = [config_of(tmp_path, **PAPER | {"dpo": {}} | sections).rounds for sections in found]
    assert sorted(rounds)[-3:] == [1, 3, 3] and len(rounds) > 4


def test_training_alone_is_refused(tmp_path: Path) -> None:
    """Later rounds are sampled in between; the error comes before anything is checked or asked."""
    with pytest.raises(ConfigError, match=r"dpo\.rounds: 2: .*use cai run, or set dpo\.rounds=1"):
        asyncio.run(train(config_of(tmp_path, **TWO), HERE))


def test_rounds_have_models_stages_and_parts(tmp_path: Path) -> None:
    """The last model is `dpo`; each starts from the one before; others take the first round's pairs."""
    config = config_of(tmp_path, **PAPER, dpo={"rounds": 3, "replay": 0.1}, kto={}, orpo={})
    assert config.trained_models == config.policies == ("sft", "dpo-1", "dpo-2", "dpo", "kto", "orpo")
    assert [config.start_of(model) for model in config.policies] == [
        "base",
        "sft",
        "dpo-1",
        "dpo-2",
        "sft",
        "base",
    ]
    assert [learns_from(config, model) for model in config.policies] == [
        "sft", "preference", "preference-2", "preference-3", "preference", "preference",
    ]  # fmt: skip
    first, _, last = rounds_of(config)
    assert (first.generate, first.judge, first.pairs) == ("sft-generate", "sft-judge", "pairs")
    assert (last.generate, last.judge) == ("dpo-2-generate", "dpo-2-judge")
    assert stages_of(config, last.part) == ("dpo-2-pairs", "dpo-2-replay")
    assert stages_of(config_of(tmp_path, **PAPER, dpo={"rounds": 2}), "preference-2") == ("dpo-1-pairs",)
    assert [sampled_model(name) for name in (last.generate, "sft-generate", "generate", "dpo-judge")] == [
        "dpo-2", "sft", None, None,
    ]  # fmt: skip
    assert [joint_stage(name) for name in ("dpo-12-judge-x", "sft-judge", "judge-judge", "dpo-1-generate")] == [
        "dpo-12-judge", "sft-judge", "judge", None,
    ]  # fmt: skip
    assert judge_stages(config, last.judge) == {"dpo-2-judge": "m"}
    assert evaluated(["changes", "dpo", "dpo-10", "dpo-2", "kto", "base"]) == [
        "base",
        "dpo-2",
        "dpo-10",
        "dpo",
        "kto",
    ]


def test_one_round_is_what_the_recipe_was(tmp_path: Path) -> None:
    """No other model, part or stage than before there were rounds; the recipe `direct` has none."""
    config = config_of(tmp_path, **PAPER, dpo={})
    assert config.trained_models == ("sft", "dpo")
    (only,) = rounds_of(config)
    assert (only.model, only.part, stages_of(config, only.part), only.mark) == (
        "dpo",
        "preference",
        ("pairs",),
        "",
    )
    direct = config_of(tmp_path, sft={}, dpo={})
    assert rounds_of(direct) == () and learns_from(direct, "dpo") == "preference"
    assert [direct.start_of(model) for model in direct.policies] == ["base", "sft"]


def test_every_round_is_planned(tmp_path: Path) -> None:
    """Samples and pairs of each round as often as of the first; in self-play no judge is asked after the revisions."""
    shares = Shares(1, 1, 1, 1, 1, "given")

    def calls(**changes: Any) -> dict[str, float]:
        config = config_of(tmp_path, policy={"model": "m", "n": 3}, **changes)
        return {
            one.kind: one.each
            for one in calls_a_prompt(config, load_constitution(config.constitution), shares)
        }

    asked = calls(**TWO)
    assert asked["sft-generate"] == asked["dpo-1-generate"] == 3
    assert asked["sft-judge"] == asked["dpo-1-judge"] == 3 * 2
    assert "dpo-2-generate" not in asked
    alone = calls(**PLAY)
    assert alone["dpo-1-generate"] == 3 and {name for name in alone if "judge" in name} == {"judge"}


ids = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), unique=True, max_size=30)
shares = st.floats(0, 1)


@given(seed=st.integers(0, 2**32), rows=ids, number=st.integers(2, 9), less=shares, more=shares)
def test_a_replay_is_drawn_row_by_row(
    seed: int, rows: list[str], number: int, less: float, more: float
) -> None:
    """The same whenever and beside whatever it is asked; a larger share keeps all of a smaller one; 0 and 1 are all."""
    less, more = sorted((less, more))
    few, many = (
        {row for row in found if is_replayed(seed, row, number, share)}
        for found, share in ((rows, less), (rows[::-1], more))
    )
    assert few <= many
    assert few == {row for row in sorted(rows) if is_replayed(seed, row, number, less)}
    assert not any(is_replayed(seed, row, number, 0.0) for row in rows)
    assert all(is_replayed(seed, row, number, 1.0) for row in rows)


def test_the_share_of_a_replay_is_met() -> None:
    """A quarter of many, and not the same quarter in each round or under each seed."""
    drawn = [
        {n for n in range(4000) if is_replayed(s, f"p{n}/r0~p{n}/r1", r, 0.25)}
        for s, r in ((0, 2), (0, 3), (1, 2))
    ]
    assert all(abs(len(found) - 1000) < 150 for found in drawn)
    assert all(len(drawn[0] & other) < 400 for other in drawn[1:])


def pair(name: str, chosen: str, rejected: str, prompt: str = "Why?") -> Pair:
    first, second = ((Message(role="assistant", content=text),) for text in (chosen, rejected))
    return Pair(
        id=name, prompt=(Message(role="user", content=prompt),), chosen=first, rejected=second, p=0.9, margin=2.2,
        source="samples", principles=(), tags=(), lineage=name,
    )  # fmt: skip


def test_the_newest_label_of_two_replies_holds(tmp_path: Path) -> None:
    """Of the same two texts the round's own pair is learned from, then the later earlier one; all are accounted for."""
    config = config_of(tmp_path, **PAPER, dpo={"rounds": 3, "replay": 1.0})
    rounds = {
        "dpo-2-pairs": [pair("own", "a", "b"), pair("alone", "x", "y")],
        "dpo-1-pairs": [pair("turned", "b", "a"), pair("later", "c", "d")],
        "pairs": [pair("earlier", "d", "c"), pair("elsewhere", "a", "b", "How?"), pair("kept", "e", "f")],
    }
    for stage, rows in rounds.items():
        write_rows(shard_paths(config.root, stage, 0).rows, rows)
    found, origins = replayed(config, "dpo-2-replay", 0)
    rows_out = list(found)
    assert origins == ("dpo-2-pairs", "dpo-1-pairs", "pairs")
    assert [row.id for row in rows_out if isinstance(row, Pair)] == ["later", "elsewhere", "kept"]
    assert [(row.id, row.reason) for row in rows_out if isinstance(row, Drop)] == [
        ("turned", "repeated"), ("earlier", "repeated"),
    ]  # fmt: skip
    assert {row.stage for row in rows_out if isinstance(row, Drop)} == {"dpo-2-replay"}


def prompt(name: str) -> Prompt:
    return Prompt(id=name, messages=(Message(role="user", content=f"Why {name}?"),), source="s")


def demonstration(name: str, text: str) -> Demonstration:
    return Demonstration(
        id=name, prompt=(Message(role="user", content="Why?"),), source="revision", tags=("t",), lineage=name,
        completion=(Message(role="assistant", content=text),),
    )  # fmt: skip


def reply(name: str, sample: int, text: str) -> Reply:
    return Reply(
        id=f"{name}/r{sample}",
        prompt=prompt(name),
        sample=sample,
        text=text,
        finish_reason="stop",
        model="m",
        calls=(),
    )


texts = st.sampled_from(["good", "bad", "worse", ""])


@given(
    st.lists(st.tuples(st.integers(0, 3), texts, st.lists(texts, max_size=3)), max_size=6),
    st.sampled_from(["", "@2", "@13"]),
)
def test_self_play_accounts_for_every_sample(drawn: list[tuple[int, str, list[str]]], mark: str) -> None:
    """Each is the worse side of one pair, or a drop by its reason; sides differ in words, and no pair comes twice."""
    demonstrations, replies = [], []
    for n, (kind, better, samples) in enumerate(drawn):
        if kind:  # of a revision, or of the reply itself; a prompt without one was never asked
            demonstrations.append(demonstration(f"p{n}/r0/v" if kind == 1 else f"p{n}/r0", better))
            replies += [reply(f"p{n}{mark}", sample, text) for sample, text in enumerate(samples)]
    asked = list(shown([prompt(f"p{n}") for n in range(len(drawn))], demonstrations))
    assert [one.id for one in asked] == [f"p{n}" for n, (kind, *_) in enumerate(drawn) if kind]
    found = list(self_play(replies, demonstrations, mark))
    assert len(found) == len(replies)
    seen: set[tuple[str, str]] = set()
    for row, sample in zip(found, replies, strict=True):
        better = drawn[int(sample.prompt.id[1:].removesuffix(mark))][1]
        if isinstance(row, Drop):
            expected = "identical" if sample.text == better else "duplicate"
            assert (row.id, row.reason) == (sample.id, expected)
            assert expected == "identical" or (sample.prompt.id, sample.text) in seen
            continue
        assert (row.chosen[0].content, row.rejected[0].content) == (better, sample.text)
        assert better != sample.text and (sample.prompt.id, sample.text) not in seen
        assert row.id.endswith(f"~{sample.id}") and (row.p, row.margin) == (None, None)
        seen.add((sample.prompt.id, sample.text))


def test_self_play_without_a_demonstration_drops_the_sample() -> None:
    """Files that belong to other demonstrations lose rows by name, never silently."""
    found = list(self_play([reply("p1", 0, "x"), reply("p2", 0, "y")], [demonstration("p1/r0", "z")]))
    assert isinstance(found[0], Pair)
    assert isinstance(found[1], Drop) and found[1].reason == "no_demonstration"


def test_rounds_are_told_as_far_as_they_are() -> None:
    """A jury's calls count once each; a round that is not through has no sum; another config's folders do not count."""

    def stage(out: int, calls: int = 0, **drops: int) -> dict[str, Any]:
        return {
            "rows_out": out,
            "drops": drops,
            "calls": calls,
            "prompt_tokens": calls,
            "completion_tokens": 0,
            "cost": 0.5,
        }

    stages = {
        "sft-generate": stage(10, 10, truncated=2), "sft-judge-x": stage(5, 20, identical=1),
        "sft-judge": stage(5, identical=1), "pairs": stage(3, tie=2),
        "dpo-1-generate": stage(9, 9), "dpo-1-judge": stage(4, 8), "dpo-1-pairs": stage(4), "dpo-1-replay": stage(1),
        "dpo-10-generate": stage(7, 7),
    }  # fmt: skip
    dpo = {"rounds": 3, "replay": 0.5, "self_play": False}
    first, second = rounds_done({"recipe": "paper", "dpo": dpo}, stages)
    assert (first["calls"], first["cost"], first["learned"]) == (30, 2.0, 3)
    assert first["dropped"] == {"identical": 1, "tie": 2, "truncated": 2}
    assert (second["model"], second["calls"], second["replayed"], second["learned"]) == ("dpo-2", 17, 1, 5)
    del stages["dpo-1-pairs"]
    assert rounds_done({"recipe": "paper", "dpo": dpo}, stages)[1]["learned"] is None
    alone = {"rounds": 2, "replay": 0, "self_play": True}
    first, second = rounds_done({"recipe": "paper", "dpo": alone}, stages)
    assert (first["calls"], first["dropped"], second["replayed"]) == (10, {"tie": 2, "truncated": 2}, 0)
    for config in (
        {"recipe": "paper", "dpo": {}},
        {"recipe": "paper", "dpo": None},
        {"recipe": "direct", "dpo": dpo},
    ):
        assert rounds_done(config, stages) == []
