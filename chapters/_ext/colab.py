"""The first code cell of every chapter: on Google Colab it fetches and installs the book.

The one text of that cell is here; ``make execute`` writes it, with the address of
``_config.yml`` in it, into every chapter, and a test checks that they agree.
"""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CELL_ID = "colab"
TAG = "remove-cell"  # the site has a button instead

TEMPLATE = """\
# On Google Colab this fetches the book and installs what is missing. Elsewhere it does nothing.
import sys

REPOSITORY = "{url}"  # written by `make execute` from _config.yml

if "google.colab" in sys.modules:
    import os
    import subprocess

    if not REPOSITORY:
        raise RuntimeError("REPOSITORY: is empty; put the address of the repository here")
    if not os.path.isdir("mambadream") and not os.path.isdir("../mambadream_lite"):
        subprocess.run(["git", "clone", "--depth=1", REPOSITORY, "mambadream"], check=True)
        os.chdir("mambadream/chapters")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", ".."], check=True)
    sys.path.insert(0, os.path.abspath(".."))  # this kernel began before the install"""


def repository_url(config: Path = ROOT / "_config.yml") -> str:
    """The public address of the repository, or "" while it is not known."""
    return (yaml.safe_load(config.read_text())["repository"].get("url") or "").rstrip("/")


def cell_source(url: str) -> str:
    """Source of the first code cell for an address; ValueError if it cannot be one."""
    if url and not (url.startswith("https://") and url.isprintable() and '"' not in url):
        raise ValueError(f"repository.url: got {url!r}, allowed is an https:// address or nothing")
    return TEMPLATE.format(url=url)
