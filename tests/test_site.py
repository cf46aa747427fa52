"""The site made of docs/: it builds without a warning, has what the code has, and fetches nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer

from cai.cli import app
from cai.config import RunConfig
from cai.constitution import json_schema
from tests.small_cli import ROOT, environment

pytestmark = pytest.mark.slow
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build --strict`, in which a warning is a failure."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(out)]
    variables = environment(NO_MKDOCS_2_WARNING="1")
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The site, built."""
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", out)
    assert done.returncode == 0, done.stderr
    yield out


class Fetches(HTMLParser):
    """Collects what a browser would load for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "link" and named.get("rel") not in ("stylesheet", "icon", "preload", "preconnect"):
            return
        self.found += [value] if tag in FETCHED and (value := named.get(FETCHED[tag])) else []


def test_nothing_is_fetched_from_the_network(site: Path) -> None:
    """No font, script, style or picture of another host; by the pages and by their styles."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        parser = Fetches()
        parser.feed(page.read_text("utf-8"))
        assert parser.found and [url for url in parser.found if re.match(r"(https?:)?//", url)] == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"url\([\"']?(?:https?:)?//[^)]*", style.read_text("utf-8")) == []


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """Also one that was only put into the folder."""
    home = (site / "index.html").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        if str(name) != "index":
            assert f'href="{name}/"' in home, name


def test_the_reference_has_all_that_the_code_has(site: Path) -> None:
    """Each command and option, each section of a config, each field of a constitution; and no mark is left."""
    text = {
        name: (site / f"reference/{name}/index.html").read_text("utf-8")
        for name in ("cli", "config", "constitution")
    }
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"cai {name}" in text["cli"], name
        for option in (option for one in command.params for option in one.opts if option.startswith("--")):
            assert f"<code>{option}" in text["cli"], (name, option)
    for name, schema in (("config", RunConfig.model_json_schema()), ("constitution", json_schema())):
        parts = [schema, *schema["$defs"].values()]
        fields = {field for part in parts for field in part.get("properties", {})}
        assert len(fields) > 20 and [one for one in fields if f"<code>{one}</code>" not in text[name]] == []
    assert not any(f"<!-- {name} -->" in page for name, page in text.items())


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    """Of a page and of a heading."""
    docs = tmp_path / "docs"
    docs.mkdir()
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: {docs}\nplugins: []\nhooks: []\nnav: [index.md]\n"
    )
    (docs / "index.md").write_text("# A\n\n[page](none.md), [heading](#none)\n")
    done = build(config, tmp_path / "out")
    assert done.returncode != 0 and "none.md" in done.stderr and "#none" in done.stderr, done.stderr
