"""The Pareto front as a self-contained page: chart, chosen student, table of all trials.

Without JavaScript the page shows the picture of the front and the table.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template

from PIL import Image

from search.analysis.page_data import PageContext, page_data
from search.analysis.plot_layout import NOTHING, Point
from search.core.record import DISTURBED, DISTURBED_MARK, Record
from trainables.core.units import human_size

PARTS = Path(__file__).parent / "page"
"""The folder of the page's template, style and script."""
NUM_COLORS = 64
"""Colours of the picture in the page, which must be small."""
COLUMNS = (
    ("trial", False),
    ("state", False),
    ("mIoU %", True),
    ("size", True),
    ("latency", True),
    ("bits W/A", False),
    ("student", False),
    ("epochs", True),
    ("device s", True),
    ("reason", False),
)
"""Of the table: the name of each column, and whether it holds numbers."""
CHART = """<section id="interactive" hidden aria-label="the front">
<div class="bar">
<label for="cost">I can afford</label> <select id="cost"></select>
<input type="range" id="budget" min="0" max="1000" value="1000" aria-label="the most it may cost">
<output id="limit" for="budget"></output>
<span class="bar" id="presets"></span>
</div>
<p><strong id="answer" aria-live="polite"></strong></p>
<div class="columns">
<div>
<div class="bar">
<button type="button" id="closer">Zoom in</button>
<button type="button" id="farther">Zoom out</button>
<button type="button" id="whole">Whole front</button>
</div>
<div class="chart" id="chart"></div>
<ul class="legend" id="legend"></ul>
<div><p class="muted">Fronts of other studies on the same data</p>
<ul class="legend" id="others"></ul></div>
</div>
<div id="chosen"></div>
</div>
</section>
"""


def write_page(
    records: Sequence[Record],
    points: Sequence[Point],
    title: str,
    subtitle: str,
    picture: bytes,
    context: PageContext,
) -> str:
    """The page of the trials in `records`, of which `points` have finished; it loads nothing.

    `picture` is the front as PNG.
    """
    content = [CHART, picture_of(points, picture), search_of(context), table_of(records, points)]
    data, script = page_data(records, points, context), (PARTS / "script.js").read_text()
    return fill_page(title, subtitle, "\n".join(content), data, script)


def fill_page(
    title: str, subtitle: str, content: str, data: object = None, script: str = ""
) -> str:
    """A page with content in HTML, and a script that reads `data`."""
    return Template((PARTS / "template.html").read_text()).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        style=(PARTS / "style.css").read_text(),
        script=script,
        content=content,
        data=embed(data),
    )


def embed(content: object) -> str:
    """JSON for an element of a page, which no text in it can end."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def picture_of(points: Sequence[Point], picture: bytes) -> str:
    """The front as a picture, which the chart replaces, or why there is none."""
    if not points:
        return f"<p><strong>{NOTHING}.</strong> The table has the reasons.</p>"
    shown = image_tag(picture, "mIoU against model size of all finished trials")
    return f'<noscript id="picture">{shown}</noscript>'


def image_tag(picture: bytes, text: str) -> str:
    """A PNG in a page, with the text that stands for it."""
    content = BytesIO()
    with Image.open(BytesIO(picture)) as image:
        image.convert("RGB").quantize(NUM_COLORS).save(content, format="png", optimize=True)
    source = f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"
    return f'<img src="{source}" alt="{escape(text)}">'


def search_of(context: PageContext) -> str:
    """The section about the search, to which the script adds charts."""
    if context.diagnostics is None:
        return '<section id="search"></section>'
    share = 100 * context.diagnostics.unfinished_share
    return (
        '<section id="search"><h2>The search</h2>'
        f"<p>{share:.0f} % of the device seconds went into trials that did not finish.</p>"
        "</section>"
    )


def table_of(records: Sequence[Record], points: Sequence[Point]) -> str:
    """All trials as a table, those on the front first, then in their order."""
    by_id = {point.trial_id: point for point in points}
    on_front = {point.trial_id for point in points if point.on_front}
    ordered = sorted(records, key=lambda record: record.trial_id not in on_front)
    head = "".join(
        f'<th scope="col"{" class=number" if is_number else ""}>{name}</th>'
        for name, is_number in COLUMNS
    )
    rows = "\n".join(row_of(record, by_id.get(record.trial_id)) for record in ordered)
    is_marked = any(record.latency_disturbed for record in records)
    mark = f"<p>{DISTURBED_MARK} {DISTURBED}</p>" if is_marked else ""
    return (
        '<section><h2>All trials</h2><div class="scroll" tabindex="0" role="region" '
        f'aria-label="all trials"><table id="trials"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>{mark}</section>"
    )


def row_of(record: Record, point: Point | None) -> str:
    """A row of the table, with the values that it is sorted by."""
    metrics, config = record.metrics, record.config
    size = metrics.size_bytes if metrics else None
    state = "on the front" if point and point.on_front else record.state.lower()
    cells = [
        cell(state),
        number(metrics.miou, f"{100 * metrics.miou:.1f}") if metrics else EMPTY,
        number(size, human_size(size)) if size else EMPTY,
        latency_cell(record),
        cell(point.bits if point else ""),
        cell(config.student.describe() if config else ""),
        number(metrics.epoch, str(metrics.epoch)) if metrics else EMPTY,
        number(metrics.device_seconds, f"{metrics.device_seconds:,.0f}") if metrics else EMPTY,
        cell(record.reason),
    ]
    label = escape(point.label if point else record.trial_id)
    is_member = ' class="front"' if point and point.on_front else ""
    return (
        f'<tr data-trial="{escape(record.trial_id)}"{is_member}>'
        f'<th scope="row">{label}</th>{"".join(cells)}</tr>'
    )


def cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def latency_cell(record: Record) -> str:
    if record.latency_ms is None:
        return EMPTY
    return number(record.latency_ms, record.written_latency)


EMPTY = '<td class="number" data-value=""></td>'
"""The cell of a number that is not known."""


def number(value: float, text: str) -> str:
    return f'<td class="number" data-value="{value}">{text}</td>'
