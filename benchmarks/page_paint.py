"""Milliseconds until a browser shows pages of fronts, loaded in turns.

    python -m benchmarks.page_paint before/front.html after/front.html --out page_paint.md

Each page is loaded from disk into a new tab of Chromium, which Playwright drives. "First paint" is
when the browser first shows text or a picture; "chart" is when the points of the front are there.
Medians of several rounds after one to warm up.
"""

import argparse
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import sync_playwright

from benchmarks.timing import describe_machine, markdown

CHART = ".point, .scatterlayer .points path"
"""Points of a front, in this project's pages and in those of plotly."""
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def load(browser: Any, page: Path) -> tuple[float, float]:
    """Milliseconds to the first paint of a page, and to its chart."""
    tab = browser.new_page(viewport={"width": 1300, "height": 900})
    try:
        tab.goto(page.resolve().as_uri(), wait_until="commit")
        tab.wait_for_selector(CHART, state="attached")
        chart = float(tab.evaluate("performance.now()"))
        tab.wait_for_function(f"({PAINTED}) !== null")
        return float(tab.evaluate(PAINTED)), chart
    finally:
        tab.close()


def main(argv: list[str] | None = None) -> int:
    """Prints and writes the table of the pages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if (chromium := shutil.which("chromium")) is None:
        print("error: Chromium must be installed", file=sys.stderr)
        return 2
    times: dict[Path, list[tuple[float, float]]] = {page: [] for page in arguments.pages}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for turn in range(arguments.rounds + 1):
            for page, found in times.items():
                measured = load(browser, page)
                if turn:
                    found.append(measured)
        version = browser.version
        browser.close()
    rows: list[list[object]] = [
        [
            str(page),
            f"{page.stat().st_size:,}",
            *(f"{statistics.median(column):.0f}" for column in zip(*found, strict=True)),
        ]
        for page, found in times.items()
    ]
    table = markdown(["page", "bytes", "first paint, ms", "chart, ms"], rows)
    text = f"Measured on: {describe_machine(torch.device('cpu'))}, Chromium {version}.\n\n{table}\n"
    arguments.out.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
