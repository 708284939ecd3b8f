"""The chapters as stored: run from top to bottom, clean, small, and with words for pictures."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from book_site import ROOT, book_pages
from colab import CELL_ID, TAG, cell_source, repository_url

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
MAX_BYTES = 1_000_000
FIGURE_TYPES = {"image/png", "image/svg+xml", "image/jpeg", "application/vnd.plotly.v1+json"}
# What has no business in stored outputs, and what it is
UNWANTED = {
    "a path of one machine": re.compile(
        r"(?<![\w.])/(home|root|tmp|work|Users|usr|opt|workspace)/\w"
    ),
    "a warning": re.compile(r"\b\w*Warning:"),
    "an install log": re.compile(
        r"(Successfully installed|Requirement already satisfied|Collecting \w)"
    ),
    "an address of an object": re.compile(r"\bat 0x[0-9a-f]+"),
}

chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def shown_text(output: nbformat.NotebookNode) -> str:
    """The text that a reader sees of an output: a richer form hides the plain one."""
    if output.output_type == "stream":
        return output.text
    data = output.get("data", {})
    rich = [v for k, v in data.items() if k in ("text/html", "text/markdown")]
    return "".join(rich) if len(data) > 1 else data.get("text/plain", "")


def test_every_notebook_is_in_the_book() -> None:
    listed = {ROOT / f"{page}.ipynb" for page in book_pages()}
    assert set(CHAPTERS) <= listed, "a notebook is missing from _toc.yml"
    assert len(CHAPTERS) >= 6


@chapter
def test_every_code_cell_has_run(path: Path) -> None:
    cells = code_cells(path)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "run `make execute`: cells ran out of order"
    errors = [o.evalue for cell in cells for o in cell.outputs if o.output_type == "error"]
    assert errors == []


@chapter
def test_outputs_are_clean(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.get("name") != "stderr", f"stderr is stored: {output.text[:200]}"
            text = shown_text(output)
            for what, pattern in UNWANTED.items():
                match = pattern.search(text)
                assert not match, f"{what}: {text[max(0, match.start() - 40) : match.end() + 80]}"


@chapter
def test_figures_have_words(path: Path) -> None:
    for cell in code_cells(path):
        shown = [o for o in cell.outputs if FIGURE_TYPES & set(o.get("data", {}))]
        if shown and not {"remove-cell", "remove-output"} & set(cell.metadata.get("tags", [])):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) > 10, f"no mystnb.image.alt on the cell: {cell.source[:80]}"
            assert len(shown) == 1, f"one alt text for {len(shown)} figures: {cell.source[:80]}"


@chapter
def test_parameters_can_be_set(path: Path) -> None:
    tagged = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1, "papermill needs one cell tagged `parameters`"
    assert re.search(r"^seed\s*(:.*)?=", tagged[0].source, re.M)
    assert re.search(r"^profile\s*(:.*)?=", tagged[0].source, re.M)


@chapter
def test_first_cell_is_the_one_for_colab(path: Path) -> None:
    first = code_cells(path)[0]
    assert first.id == CELL_ID and TAG in first.metadata.tags
    assert first.source == cell_source(repository_url()), "run `make stamp`"
