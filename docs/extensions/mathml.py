"""Write equations as MathML, which browsers draw themselves: MathJax would need a network, or 30 MB in the site."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number


def write_inline(writer: Any, node: nodes.math) -> None:
    """Write an equation in a line of text."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def write_block(writer: Any, node: nodes.math_block) -> None:
    """Write an equation of its own, with its number if it has a label."""
    number = ""
    if node["number"]:
        number = f'<span class="eqno">({get_node_equation_number(writer, node)})</span>'
    identifier = f' id="{node["ids"][0]}"' if node["ids"] else ""
    equation = tex2mathml(node.astext(), as_block=True)
    writer.body.append(f'<div class="math"{identifier}>{number}{equation}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer and choose it."""
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
    app.config.html_math_renderer = "mathml"  # type: ignore[attr-defined]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
