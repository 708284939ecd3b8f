"""Sphinx extension: draws what needs the repository's public address, once there is one.

The address is one value, ``repository.url`` in ``_config.yml``. While it is empty, nothing
that needs it is drawn: no Colab button, no link to the source, to issues, or to edit a page.
"""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.config import Config

BUTTONS = ("use_repository_button", "use_issues_button", "use_edit_page_button")
COLAB = "https://colab.research.google.com"


def theme_buttons(url: str) -> dict:
    """Options of the theme for a public address; with an empty one, no button at all."""
    return dict.fromkeys(BUTTONS, bool(url)) | {
        "launch_buttons": {"colab_url": COLAB if url else ""}
    }


def add_buttons(app: Sphinx, config: Config) -> None:
    """Set the theme's buttons from the address that Jupyter Book has read."""
    url = (config.html_theme_options.get("repository_url") or "").rstrip("/")
    config.html_theme_options["repository_url"] = url
    config.html_theme_options.update(theme_buttons(url))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx when it loads the extension."""
    # Before the theme reads its options, at the default priority of 500
    app.connect("config-inited", add_buttons, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
