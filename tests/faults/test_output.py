"""Hostile texts and names on their way to people: no terminal, page, card or path of ours obeys them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from cai.cli.common import print_json
from cai.config import RunConfig
from cai.errors import ConfigError, StoreError
from cai.export.dataset import write_card
from cai.marks.mark import add_mark, make_mark
from cai.printable import printable, printable_lines
from cai.report.markdown import code, escaped, quoted, shown
from cai.rows import Reply
from cai.shard import read_manifest
from cai.store import read_rows
from tests.report_run import HOSTILE, add_training, finished_run, hostile
from tests.small_cli import run_cai
from tests.view_run import judged_run, judgment, viewer

STEER = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
NAME = "a\x1b[31m\x07\u202e\u009b2J[red]b[/red]"
CONSTITUTION = {
    "schema": 1, "name": f"x | ![](http://192.0.2.1/x.png) `{NAME}`", "version": "1 <script>", "description": NAME,
    "principles": [{"id": "kind", "statement": f"Be kind {NAME}.", "critique": f"{NAME}?", "applies_to": [NAME]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunConfig]:
    """A run with a hostile text in every reply, critique and revision, and in the tags of its prompts."""
    folder = tmp_path_factory.mktemp("hostile")
    prompts = [{"path": str(folder / "prompts.jsonl"), "tags": [HOSTILE]}]
    made = finished_run(folder, hostile, prompts=prompts)
    add_training(made.root)
    yield made


@pytest.mark.slow
def test_no_command_obeys_a_run(config: RunConfig, tmp_path: Path) -> None:
    """What is printed of a run holds no byte that steers a terminal; its rows have the texts as they are."""
    root = config.root
    replies = [row for path in sorted(root.glob("generate/rows-*")) for row in read_rows(path, Reply)]
    assert replies and all(row.text.startswith(HOSTILE) for row in replies)
    commands: list[list[str | Path]] = [
        ["status", root], ["status", root, "--json"], ["report", root],
        ["export", root, "--format", "csv", "--out", tmp_path / NAME.replace("/", "")],
        ["audit", "revisions", root], ["audit", "refusals", root], ["audit", "dataset", root],
        ["marks", "plan", root], ["marks", "list", root],
    ]  # fmt: skip
    for words in commands:
        done = run_cai(*words)
        assert done.status in (0, 1) and done.out, (words, done)
        assert STEER.search(done.out + done.err) is None, (words, done)


def test_no_command_obeys_a_constitution(tmp_path: Path) -> None:
    """Shown, checked, compared and exported, as JSON as well, which reads back as what it was."""
    old, new = tmp_path / "c.yaml", tmp_path / "d.yaml"
    old.write_text(json.dumps(CONSTITUTION))
    new.write_text(json.dumps(CONSTITUTION).replace("Be kind", "Be very kind"))
    commands: list[list[str | Path]] = [
        ["show", old], ["show", old, "--json"], ["lint", old], ["lint", old, "--format", "github"],
        ["diff", old, new], ["diff", old, new, "--json"],
    ]  # fmt: skip
    for words in commands:
        done = run_cai("constitution", *words)
        assert done.status == 0 and (done.out or words[0] == "lint"), (words, done)
        assert STEER.search(done.out + done.err) is None, (words, done)
    assert run_cai("constitution", "show", old, "--json").json["name"] == CONSTITUTION["name"]


def test_no_error_obeys_a_name(tmp_path: Path) -> None:
    """Names of files, keys and values that are not there or not right."""
    bad = tmp_path / f"{NAME.replace('/', '')}.yaml"
    bad.write_text(json.dumps({"name": NAME, NAME: {NAME: NAME}, "models": {NAME: {"backend": NAME}}}))
    commands: list[list[str | Path]] = [
        ["run", bad, "--no-prefect"], ["run", f"{bad}.none", "--no-prefect"], ["plan", bad],
        ["constitution", "lint", bad],
        ["constitution", "show", f"{bad}.none"],
        ["status", bad], ["export", bad], ["judge", "replay", bad],
        ["run", "flows/configs/embedded.yaml", "--no-prefect", "--set", f"{NAME}={NAME}"],
        ["constitution", "import", bad, "-o", tmp_path / "out.yaml"],
    ]  # fmt: skip
    for words in commands:
        done = run_cai(*words)
        assert done.status in (1, 2), (words, done)
        assert STEER.search(done.out + done.err) is None, (words, done)
        assert "[red]" in done.err + done.out or words[0] == "run", (words, done)


def test_json_for_programs_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    """What could steer a terminal is escaped in it, not lost."""
    value = {NAME: [HOSTILE, "\x7f\u2028\U0001f600 \u00e9"]}
    print_json(value)
    said = capsys.readouterr().out
    assert STEER.search(said) is None and json.loads(said) == value


def test_lines_of_text_stay_text() -> None:
    """Only what steers is replaced; line by line, tabs and joined letters are kept."""
    family = "\U0001f468\u200d\U0001f469"
    assert printable_lines(f"a\tb\n{family}\x1b[0m\r\ud800") == f"a\tb\n{family}\ufffd[0m\ufffd\ufffd"
    assert printable("a\nb\u202ec") == "a\ufffdb\ufffdc"


@pytest.mark.parametrize(
    "text", [HOSTILE, "![x](http://192.0.2.1/x.png)", "<img src=x>", "a|b", "`c`", "http://192.0.2.1", "# x"]
)
def test_markdown_says_just_the_text(text: str) -> None:
    """No image, link, heading, cell or tag comes of it in markdown as hubs and Prefect render it."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    assert not re.search(r"(?<!\\):", shown(text))  # nor an address that a reader makes a link of
    for written in (
        shown(text),
        quoted(text),
        escaped(printable(text)),
        f"| {shown(text)} | x |\n|---|---|\n| `{code(text)}` | y |",
    ):
        made = reader.render(written)
        assert not re.search(r"<(img|a|script|h\d)\b", made), made
        assert "<table>" not in made or made.count("<t") == 9, made
        assert STEER.search(made) is None


@pytest.mark.slow
def test_a_dataset_card_says_names_as_they_are(config: RunConfig, tmp_path: Path) -> None:
    """A constitution's name is a stranger's text, and a hub renders the card."""
    from markdown_it import MarkdownIt

    (tmp_path / "c.yaml").write_text(json.dumps(CONSTITUTION))
    write_card(
        config.model_copy(update={"constitution": str(tmp_path / "c.yaml")}), {"preference": 1}, Counter()
    )
    card = (config.root / "dataset" / "README.md").read_text().split("---\n", 2)[2]
    assert "192.0.2.1" in card
    assert not re.search(
        r"<(img|a|script)\b", MarkdownIt("commonmark", {"html": True}).enable("table").render(card)
    )


def test_the_viewer_serves_nothing_else(tmp_path: Path) -> None:
    """No way of writing a path leads out of what the viewer has, also not by links in a run's folder."""
    run = judged_run(tmp_path, [judgment(0), judgment(1)])
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret")
    (run / "drafts").mkdir()
    (run / "drafts" / "own.yaml").symlink_to(secret)
    with viewer(run) as client:
        for path in (
            "/static/../../../etc/passwd", "/static/%2e%2e/%2e%2e/pages.py", "/static/..%2f..%2fpages.py",
            "/static//etc/passwd", "/%2e%2e/config.json", "/config.json", "/static/%00", "/static/..\\..\\pages.py",
            "/draft?name=../../secret.txt", "/draft?name=own", "/draft/file?name=../config", "/draft.yaml?name=own",
            "/story?prompt=../../config.json", f"/%1b[31m{NAME}",
        ):  # fmt: skip
            answer = client.get(client.base_url.copy_with(raw_path=quote(path, safe="/%?=&").encode()))
            body = answer.text
            assert "top secret" not in body and "root:x" not in body and '"judge":' not in body, path
            assert "environment()" not in body, path
            assert answer.status_code != 200 or path.startswith("/draft?name=own"), (path, answer.status_code)


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "..", "-x", "", "x\x00", "a" * 300, "\u0430/b", "a b"])
def test_names_that_become_folders_are_refused(config_data: dict[str, object], name: str) -> None:
    """Of runs and of models, before anything is made."""
    from cai.config_file import validate_config

    with pytest.raises(ConfigError):
        validate_config({**config_data, "name": name}, "c")
    with pytest.raises(ConfigError):
        validate_config({**config_data, "models": {name: {"backend": "openai", "model": "x"}}}, "c")


@pytest.fixture
def config_data(tmp_path: Path) -> dict[str, object]:
    """A small config as plain data."""
    from tests.flows.small import small_config

    return small_config(tmp_path, "http://127.0.0.1:9/v1")


def test_a_run_writes_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    """A stranger's run may have links where it keeps marks and its page, and a manifest that names other files."""
    run = judged_run(tmp_path, [judgment(0)])
    outside = tmp_path / "outside.txt"
    outside.write_text("mine\n")
    (run / "marks.jsonl").symlink_to(outside)
    mark = make_mark("judge", judgment(0), "A", author="me")
    with pytest.raises(StoreError, match=r"marks\.jsonl"):
        add_mark(run, mark)
    (run / "report.html").symlink_to(outside)
    assert run_cai("report", run).status == 0
    assert (run / "report.html").read_text() != outside.read_text() == "mine\n"
    manifest = run / "judge" / "manifest-00000.json"
    stored = json.loads(manifest.read_bytes())
    del stored["check"]  # as of a release that made none
    stored["rows"]["path"] = stored["dropped"]["path"] = str(outside)
    manifest.write_text(json.dumps(stored))
    report = read_manifest(manifest)
    assert report is not None and {report.rows.path.parent, report.dropped.path.parent} == {manifest.parent}
