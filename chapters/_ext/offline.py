"""Sphinx extension: every script and style of the book comes from the book itself.

Adds ``chapters/_static`` to each page, and makes the larger scripts available as
``_static/vendor/``, from where only the pages that need them load them. The files are either
kept in ``chapters/_vendor`` (its README names their origin) or copied from installed packages.
"""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

CHAPTERS = Path(__file__).resolve().parents[1]
# name in the site -> name in chapters/_vendor
VENDORED = {
    "mathjax.js": "mathjax.js",
    "require.js": "require.js",
    "widgets.js": "widgets.js",
    # where widgets.js looks for its icons
    "@jupyter-widgets/html-manager/dist/1551f4f60c37af51121f.woff2": "widgets-icons.woff2",
}
# name in the site -> (package, file in the package)
FROM_PACKAGES = {
    "plotly.js": ("plotly", "package_data/plotly.min.js"),
    "anywidget.js": ("anywidget", "nbextension/index.js"),
}
FONT_PRELOAD = re.compile(r'<link rel="preload" as="font"[^>]*>\n?')


def installed_file(package: str, name: str) -> Path:
    """Path of the file ``name`` inside an installed package, without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"package: {package!r} is not installed, run `make book`")
    return Path(spec.submodule_search_locations[0]) / name


def add_static_files(app: Sphinx) -> None:
    """Put the book's own static files and styles on every page."""
    app.config.html_static_path.append(str(CHAPTERS / "_static"))
    app.add_css_file("custom.css")
    app.add_js_file("figures.js", loading_method="defer")


def copy_vendored(app: Sphinx, exception: Exception | None) -> None:
    """Copy the larger scripts to ``_static/vendor`` after a build that ended well."""
    if exception is not None or app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static" / "vendor"
    sources = {name: CHAPTERS / "_vendor" / file for name, file in VENDORED.items()}
    sources |= {name: installed_file(*where) for name, where in FROM_PACKAGES.items()}
    for name, source in sources.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / name)


def drop_font_preloads(app: Sphinx, exception: Exception | None) -> None:
    """Remove the theme's early loading of icon fonts, which browsers refuse from ``file://``.

    The style sheets load the same fonts a moment later, from anywhere.
    """
    if exception is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(FONT_PRELOAD.sub("", text), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx when it loads the extension."""
    app.connect("builder-inited", add_static_files)
    app.connect("build-finished", copy_vendored)
    app.connect("build-finished", drop_font_preloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
