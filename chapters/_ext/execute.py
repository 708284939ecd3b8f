"""Runs chapters afresh and stores their outputs in place. Run by ``make execute``.

Two runs write the same bytes: no time stamps, widgets numbered in the order in
which they appear. A chapter that fails leaves its file as it was. With ``--stamp`` nothing is
run: only the first cell's address is written (see ``colab.py``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import nbformat
from colab import CELL_ID, TAG, cell_source, repository_url
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

CELL_TIMEOUT = 600  # seconds
ATTEMPTS = 2  # a kernel hangs now and then on a busy machine
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
WIDGET_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")


def stamp(notebook: NotebookNode, url: str) -> None:
    """Write the Colab cell for ``url`` as the notebook's first code cell."""
    cell = nbformat.v4.new_code_cell(cell_source(url), id=CELL_ID, metadata={"tags": [TAG]})
    cells = [c for c in notebook.cells if c.get("id") != CELL_ID]
    first = next((i for i, c in enumerate(cells) if c.cell_type == "code"), len(cells))
    old = next((c for c in notebook.cells if c.get("id") == CELL_ID), None)
    if old is not None and old.source == cell.source:
        cell = old
    notebook.cells = cells[:first] + [cell] + cells[first:]


def number_widgets(notebook: NotebookNode, name: str) -> NotebookNode:
    """Replace the random ids of widgets by ones made from the chapter's name and a count.

    They are counted in the order in which the outputs show them, then in which those refer to
    further ones; what nothing refers to comes last, ordered by content.
    """
    states = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    if not states:
        return notebook

    def content(model_id: str) -> str:
        return WIDGET_ID.sub("", json.dumps(states[model_id], sort_keys=True))

    order: dict[str, None] = {}

    def visit(text: str) -> None:
        for model_id in WIDGET_ID.findall(text):
            if model_id in states and model_id not in order:
                order[model_id] = None
                visit(json.dumps(states[model_id], sort_keys=True))

    visit(json.dumps([cell.get("outputs", []) for cell in notebook.cells]))
    for model_id in sorted(set(states) - set(order), key=content):
        visit(model_id)
    names = {old: hashlib.md5(f"{name} {i}".encode()).hexdigest() for i, old in enumerate(order)}
    text = WIDGET_ID.sub(lambda m: names.get(m[0], m[0]), nbformat.writes(notebook))
    return nbformat.reads(text, as_version=4)


def normalise(notebook: NotebookNode, name: str) -> NotebookNode:
    """The notebook without anything that differs from run to run."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        cell.metadata.pop("papermill", None)
        for output in cell.get("outputs", []):
            if "text/plain" in output.get("data", {}):
                text = output["data"]["text/plain"]
                output["data"]["text/plain"] = ADDRESS.sub("at 0x0", text)
    widgets = notebook.metadata.get("widgets")
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    if widgets:
        notebook.metadata["widgets"] = widgets
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return number_widgets(notebook, name)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook) + "\n"
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def execute(path: Path, url: str) -> None:
    """Run one chapter from top to bottom and store its outputs."""
    for attempt in range(1, ATTEMPTS + 1):
        notebook = nbformat.read(path, as_version=4)
        stamp(notebook, url)
        notebook.metadata.pop("widgets", None)
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_name=KERNEL["name"],
            resources={"metadata": {"path": str(path.parent)}},
            record_timing=False,
            coalesce_streams=True,
        )
        try:
            client.execute()
            break
        except (CellTimeoutError, DeadKernelError):
            if attempt == ATTEMPTS:
                raise
    write(normalise(notebook, path.stem), path)


def main() -> int:
    """Run the chapters named on the command line; return 1 if one failed."""
    parser = argparse.ArgumentParser(description="Run chapters afresh and store their outputs.")
    parser.add_argument("chapters", nargs="+", type=Path)
    parser.add_argument("--stamp", action="store_true", help="only write the Colab cell")
    parser.add_argument("--jobs", type=int, default=2, help="chapters at a time (default: 2)")
    options = parser.parse_args()
    url = repository_url()
    if options.stamp:
        for path in options.chapters:
            notebook = nbformat.read(path, as_version=4)
            stamp(notebook, url)
            write(notebook, path)
        return 0

    failed = []
    with ProcessPoolExecutor(options.jobs) as pool:
        runs = {pool.submit(execute, path.resolve(), url): path for path in options.chapters}
        done = tqdm(as_completed(runs), total=len(runs), unit="chapter", disable=False)
        for run in done:
            done.set_postfix_str(runs[run].stem)
            try:
                run.result()
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                failed.append(runs[run].name)
                tqdm.write(f"{runs[run].name}: {error}", file=sys.stderr)
    if failed:
        print(f"Not stored, for they failed: {', '.join(sorted(failed))}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
