"""The tables of results are those of the figures that lie in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from make.results import PAGES, with_blocks

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_page_holds_the_figures(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = page.read_text()
    assert with_blocks(text, page) == text, f"{page} is stale: make docs"


def test_a_page_without_a_marker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = PAGES[1]
    with pytest.raises(ValueError, match="markers of seeds once, and holds them 0 times"):
        with_blocks(page.read_text().replace("<!-- figures: seeds -->", ""), page)
