"""What calls return, where a list or a dict alone would not show itself in a notebook."""

from __future__ import annotations

import base64
import html
import io
from typing import Any


class Images(list[Any]):
    """A list of PIL images. A notebook shows them side by side."""

    def _repr_html_(self) -> str:
        cells = []
        for image in self:
            png = io.BytesIO()
            image.save(png, format="PNG")
            source = base64.b64encode(png.getvalue()).decode("ascii")
            size = f'width="{image.width}" height="{image.height}"'
            cells.append(f'<img {size} style="margin: 2px" src="data:image/png;base64,{source}">')
        return "".join(cells) or "no images"


class Report(dict[str, Any]):
    """Results by name, as `--json` of the command line has them. A notebook shows them as a table."""

    def _repr_html_(self) -> str:
        return _table(self)


def _table(value: Any) -> str:
    """A value as HTML: dicts as tables, lists of dicts with a table each, the rest as text."""
    if isinstance(value, dict):
        rows = (f"<tr><th>{html.escape(str(name))}</th><td>{_table(inner)}</td></tr>" for name, inner in value.items())
        return f"<table>{''.join(rows)}</table>"
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        return "".join(_table(inner) for inner in value)
    if isinstance(value, list):
        return ", ".join(_table(inner) for inner in value)
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))
