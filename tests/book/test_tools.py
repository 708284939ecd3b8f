"""The book's own tools: the Colab cell, the buttons, stable execution, the report's last line."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import summary
import yaml
from book_site import ROOT
from colab import cell_source, repository_url
from execute import normalise, stamp, write
from plotly_figures import figure_html
from repository import theme_buttons

SAMPLE = "https://github.com/NAME/mambadream"
RUN_CELL = """
import subprocess, sys, types
calls = []
subprocess.run = lambda command, check: calls.append(command)
sys.modules["google.colab"] = types.ModuleType("google.colab")
import os
os.chdir = lambda path: calls.append(["cd", path])
exec(compile({source!r}, "cell", "exec"))
print(*[" ".join(call[-4:]) for call in calls], sep="\\n")
"""


def run_python(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", source], cwd=folder, text=True, capture_output=True
    )


def test_colab_cell_does_nothing_elsewhere(tmp_path: Path) -> None:
    done = run_python(cell_source(SAMPLE), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_colab_cell_fetches_and_installs_there(tmp_path: Path) -> None:
    done = run_python(RUN_CELL.format(source=cell_source(SAMPLE)), tmp_path)
    assert done.stdout.splitlines() == [
        f"clone --depth=1 {SAMPLE} mambadream",
        "cd mambadream/chapters",
        "install --quiet -e ..",
    ], done.stderr


def test_colab_cell_says_that_it_has_no_address(tmp_path: Path) -> None:
    done = run_python(RUN_CELL.format(source=cell_source("")), tmp_path)
    assert "RuntimeError: REPOSITORY: is empty" in done.stderr


@pytest.mark.parametrize("url", ["http://example.org/x", 'https://example.org/"x', "git@x:y"])
def test_colab_cell_refuses_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="repository.url: got .*allowed is an https"):
        cell_source(url)


def test_address_is_read_from_the_one_place(tmp_path: Path) -> None:
    config = tmp_path / "_config.yml"
    config.write_text(f"repository:\n  url: {SAMPLE}/\n")
    assert repository_url(config) == SAMPLE
    config.write_text("repository:\n  url:\n")
    assert repository_url(config) == ""


def test_buttons_need_an_address() -> None:
    assert not any(v for k, v in theme_buttons("").items() if k != "launch_buttons")
    assert theme_buttons("")["launch_buttons"] == {"colab_url": ""}
    assert all(theme_buttons(SAMPLE).values())


@pytest.mark.parametrize("url", ["", SAMPLE])
def test_built_page_has_buttons_only_with_an_address(tmp_path: Path, url: str) -> None:
    """A book of one page, built with the book's own configuration."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["repository"]["url"] = url
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: chapters/page\n")
    for part in ("_ext", "_static", "_vendor", "references.bib"):
        (tmp_path / "chapters").mkdir(exist_ok=True)
        (tmp_path / "chapters" / part).symlink_to(ROOT / "chapters" / part)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A page")])
    stamp(notebook, url)
    write(normalise(notebook, "page"), tmp_path / "chapters" / "page.ipynb")
    builder = Path(sys.executable).with_name("jupyter-book")
    done = subprocess.run(
        [sys.executable, str(builder), "build", str(tmp_path), "-W", "-n", "-q"],
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    html = (tmp_path / "_build" / "html" / "chapters" / "page.html").read_text()
    links = set(re.findall(r'href="(https://(?:colab|github)[^"]*)"', html))
    if not url:
        assert links == set()
    else:
        colab = "https://colab.research.google.com/github/NAME/mambadream/blob/main"
        assert f"{colab}/chapters/page.ipynb" in links
        assert {SAMPLE, f"{SAMPLE}/edit/main/chapters/page.ipynb"} <= links


def widget_notebook(ids: list[str]) -> nbformat.NotebookNode:
    """A slider in a box, and a link that no output mentions, with the given random ids."""
    box, slider, link = ids
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": box}}
    cell = nbformat.v4.new_code_cell("box", id="one", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("display_data", view)]
    state = {
        link: {"model_name": "LinkModel", "state": {"source": [f"IPY_MODEL_{slider}", "value"]}},
        slider: {"model_name": "SliderModel", "state": {"value": 1}},
        box: {"model_name": "BoxModel", "state": {"children": [f"IPY_MODEL_{slider}"]}},
    }
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": state}}
    return notebook


def test_two_runs_write_the_same_bytes() -> None:
    ids = [c * 32 for c in "abc"], [c * 32 for c in "fed"]
    first, second = (nbformat.writes(normalise(widget_notebook(i), "name")) for i in ids)
    assert first == second
    assert "a" * 32 not in first and first.count("IPY_MODEL_") == 2


def test_failed_run_leaves_the_chapter_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "chapter.ipynb"
    cells = [nbformat.v4.new_code_cell("1 / 0", id="fails")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    before = path.read_bytes()
    tool = ROOT / "chapters" / "_ext" / "execute.py"
    done = subprocess.run([sys.executable, str(tool), str(path)], text=True, capture_output=True)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr and "Not stored" in done.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_execution_is_stored_and_repeatable(tmp_path: Path) -> None:
    path = tmp_path / "chapter.ipynb"
    cells = [nbformat.v4.new_code_cell("print('a')\nobject()", id="prints")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    tool = ROOT / "chapters" / "_ext" / "execute.py"
    seen = []
    for _ in range(2):
        subprocess.run([sys.executable, str(tool), str(path)], check=True, capture_output=True)
        seen.append(path.read_bytes())
    assert seen[0] == seen[1]
    assert b'"a\\n"' in seen[0] and b"at 0x0" in seen[0]


def test_figure_cannot_end_its_script_early() -> None:
    html = figure_html({"layout": {"title": "</script>", "height": 300}}, 'says "so"')
    assert html.count("</script>") == 1
    assert "height:300px" in html and "says &quot;so&quot;" in html


def test_last_line_counts_a_missing_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report = '<testsuites><testsuite tests="5" failures="1" errors="0" skipped="1"/></testsuites>'
    for name in summary.REPORTS[:2]:
        (tmp_path / f"{name}.xml").write_text(report)
    summary.main(tmp_path, 1)
    assert capsys.readouterr().out.splitlines()[-1] == "6 passed, 3 failed"


def test_readme_names_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z]+)\b", (ROOT / "README.md").read_text()))
    assert {"book", "test"} <= named <= targets
    assert shutil.which("make")
