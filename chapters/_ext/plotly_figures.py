"""Sphinx extension: draws the Plotly figures stored in notebooks, without a network.

A figure is stored as data (``application/vnd.plotly.v1+json``). It goes into the page as data
too, and ``figures.js`` draws it there in the colours of the theme. Its text alternative comes
from the same cell metadata as an image's: ``mystnb: {image: {alt: ...}}``.
"""

from __future__ import annotations

import json
from html import escape

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer, load_mime_renders
from sphinx.application import Sphinx

MIME_TYPE = "application/vnd.plotly.v1+json"
DEFAULT_HEIGHT = 450  # pixels, Plotly's own


class PlotlyRenderer:
    """Renderer of one mime type, in the form that myst-nb asks for."""

    # A figure also carries text/html in some front ends: prefer the data.
    mime_priority_overrides = [("*", MIME_TYPE, 1)]

    @staticmethod
    def handle_mime(
        renderer: NbElementRenderer, data: MimeData, inline: bool
    ) -> list[nodes.Element] | None:
        """Turn a stored figure into a box that ``figures.js`` fills; None for other types."""
        if data.mime_type != MIME_TYPE:
            return None
        options = renderer.renderer.get_cell_level_config(
            "render_image_options", data.cell_metadata, line=data.line
        )
        renderer.add_js_file("plotly", "vendor/plotly.js", {"defer": "defer", "priority": 400})
        return [nodes.raw("", figure_html(data.content, options.get("alt", "")), format="html")]


def figure_html(figure: str | dict, alt: str) -> str:
    """The page's HTML for a figure: a box of the right height with the figure's data in it."""
    figure = json.loads(figure) if isinstance(figure, str) else figure
    height = figure.get("layout", {}).get("height") or DEFAULT_HEIGHT
    # "</" would end the script element early
    content = json.dumps(figure, separators=(",", ":")).replace("</", "<\\/")
    return (
        f'<div class="plotly-figure" role="figure" aria-label="{escape(alt)}" '
        f'style="height:{int(height)}px">'
        f'<script type="application/json">{content}</script></div>'
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx when it loads the extension."""
    # myst-nb finds renderers through installed entry points; its cached list takes ours too.
    renderers = load_mime_renders()
    if PlotlyRenderer not in renderers:
        renderers.append(PlotlyRenderer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
