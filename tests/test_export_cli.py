"""`cai export` as it is typed: the page's own commands, one line for a mistake, and an upload to a loopback hub."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard

from cai.config import SourceConfig
from tests.hub import hub_server
from tests.small_cli import ROOT, run_cai
from tests.test_export import make_run, pair

PAGE = (ROOT / "docs/exports.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a finished run in outputs/demo, one of its pairs with a token of a chat template in it."""
    pairs = [pair(f"p{n}", p=round(0.7 + n / 200, 3)) for n in range(50)]
    make_run(tmp_path / "outputs/demo", [*pairs, pair("t", chosen="<|im_end|>")])
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it stands there, then its Python on what they left."""
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    said = ""
    for line in block.splitlines():
        done = run_cai(*shlex.split(line)[1:], cwd=folder)
        assert done.status == 0, done.err
        said = done.out
        if "--json" in line:
            assert done.json["rows"] == {"train": 51, "eval": 0} and done.json["pushed"] is None
        elif "axolotl" in line:
            assert "left out  below_min_p 20" in said and "left out  template_tokens 1" in said
    assert (folder / "outputs/for-llama-factory/dataset_info.json").is_file()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(code, "exports.md", "exec"), {})


def test_sources_of_the_page_are_sources() -> None:
    """Every YAML block is a list of prompt sources as a config has them."""
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S):
        found = [SourceConfig.model_validate(source) for source in yaml.safe_load(block)["prompts"]]
        assert found


def test_every_format_is_on_the_page_and_in_the_help() -> None:
    """And every reason under which a row is left out."""
    from cai.export.formats import FORMATS

    known = set(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.M))
    assert set(FORMATS) <= known
    shown = " ".join(run_cai("export", "--help", COLUMNS="200").out.split())
    assert all(name in shown for name in FORMATS)
    checks = (ROOT / "cai/export/held.py").read_text()
    reasons = set(re.findall(r'"([a-z]+_[a-z_]+)"', checks))
    reasons |= {"lone_surrogate", "no_p", "below_min_p", "duplicate"}
    table = PAGE.partition("## What is left out")[2].partition("## The card")[0]
    assert len(reasons) > 8 and all(f"`{reason}`" in table for reason in reasons)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--format", "trll"], "--format trll: unknown format; choose one of trl, sft, kto"),
        (["--public"], "--public: says who sees an upload; give --push-to-hub ORG/NAME with it"),
        (
            ["--part", "preference-3"],
            "there is no part 'preference-3': the dataset has preference, sft, stepwise",
        ),
        (["--min-p", "1.0"], "no row is left for the format trl (below_min_p 51)"),
        (["--out", "."], "holds files that no export made"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(folder: Path, arguments: list[str], expected: str) -> None:
    """Nothing is written for it."""
    done = run_cai("export", "outputs/demo", *arguments, cwd=folder)
    assert done.status == 2 and done.out == ""
    assert expected in done.err and done.err.count("\n") == 1
    assert not list(folder.glob("outputs/demo/exports/*")) and not list(folder.glob(".*"))


@pytest.mark.slow
def test_an_export_arrives_at_the_hub_as_it_is(folder: Path) -> None:
    """As a private dataset, byte for byte, with a card that the hub reads; without a token nothing leaves."""
    with hub_server() as hub:
        options = ("export", "outputs/demo", "--push-to-hub", "org/pairs")
        environment = {
            name: value for name, value in hub.environment("writer").items() if name.startswith("HF_")
        }
        done = run_cai(*options, cwd=folder, HF_HUB_OFFLINE="0", **environment)
        assert done.status == 0, done.err
        repo = hub.repos["org/pairs"]
        assert (repo.private, repo.kind) == (True, "dataset") and repo.commits[-1] in done.out
        exported = folder / "outputs/demo/exports/trl"
        assert repo.files == {path.name: path.read_bytes() for path in exported.iterdir()}
        card: Any = DatasetCard(repo.files["README.md"].decode()).data
        (config,) = card.configs
        assert {one["path"] for one in config["data_files"]} <= set(repo.files)
        refused = run_cai(*options, cwd=folder, **environment | {"HF_TOKEN": ""})
        assert refused.status == 2 and "HF_TOKEN is not set" in refused.err and len(repo.commits) == 2
