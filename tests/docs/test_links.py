"""The prose of the project: links lead somewhere, paths exist, the README is short, the English is plain."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted(
    [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")]
    + [ROOT / folder / "README.md" for folder in ("benchmarks", "data", "user")]
)
SETTINGS = [ROOT / "params.yaml", ROOT / "tests/smoke/overlay.yaml", *sorted(ROOT.glob("presets/*.yaml"))]

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:src|docs|tests)/[\w./-]+)`")
GENERATED = re.compile(r"<!-- (\w+): made by docs/make.*?<!-- end of \1 -->", re.DOTALL)
# says what English does not say, or says it in a riddle: CONTRIBUTING.md has what to say instead
BANNED = re.compile(
    r"\b(mends?|mended|beside|goes on|anew|over again|(?:is|are) not there|in the mean|own fault|as it stands)\b",
    re.IGNORECASE,
)
LONGEST_README, LONGEST_SENTENCE = 150, 25  # lines, words


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_code(text: str) -> str:
    """Fenced blocks blanked, line by line, so that line numbers stay."""
    lines, fence = [], ""
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,})", line)
        is_edge = mark is not None and (not fence or mark[1] == fence)
        lines.append("" if fence or is_edge else line)
        if is_edge and mark:
            fence = "" if fence else mark[1]
    return "\n".join(lines)


def anchors(path: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.+)$", without_code(path.read_text()))
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower().strip() for heading in headings]
    kept = ["".join(c for c in heading if c in " -_" or unicodedata.category(c)[0] in "LNM") for heading in plain]
    return {heading.replace(" ", "-") for heading in kept}


def sentences(page: str) -> Iterator[str]:
    """The sentences of a page's paragraphs and list items; code, tables, headings and comments are none."""
    text = re.sub(r"<!--.*?-->", "", without_code(page), flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"(?m)^(\||#).*$", "", text)
    for paragraph in re.split(r"\n\s*\n|\n\s*[-*] ", text):
        yield from re.split(r"(?<=[.!?])\*{0,2}\s+", " ".join(paragraph.split()))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_images_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for target in LINK.findall(without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            broken.append(f"{target}: {name(file)} does not exist")
        elif anchor and anchor not in anchors(file):
            broken.append(f"{target}: no such heading; {name(file)} has {', '.join(sorted(anchors(file)))}")
    assert broken == [], name(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_in_backticks_exist(page: Path) -> None:
    paths = PATH.findall(page.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == [], name(page)


@pytest.mark.parametrize("file", [*PAGES, *SETTINGS], ids=name)
def test_the_english_is_plain(file: Path) -> None:
    text = GENERATED.sub(lambda block: "\n" * block[0].count("\n"), file.read_text())
    found = [f"{number}: {line.strip()}" for number, line in enumerate(text.splitlines(), 1) if BANNED.search(line)]
    assert found == [], name(file)


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(index.read_text())}
    pages = set(ROOT.glob("docs/**/*.md")) - {index}
    assert sorted(name(page) for page in pages if page not in linked) == []


def test_the_readme_is_one_page_of_short_sentences() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= LONGEST_README
    long = [sentence for sentence in sentences(text) if len(sentence.split()) > LONGEST_SENTENCE]
    assert long == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Fix what is beside it", True),
        ("We recommend it, with amendments", False),
        ("A run goes on from there", True),
        ("It stands\nnext to it", False),
        ("Mended", True),
    ],
)
def test_the_list_of_words_finds_words(text: str, found: bool) -> None:
    assert bool(BANNED.search(text)) == found


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("README.md", ["default", "smollm2"]),
        ("docs/results/README.md", ["default", "losses", "memory", "quarters", "sampling", "seeds", "smollm2", "trl"]),
        ("docs/memory.md", ["plans"]),
    ],
)
def test_measured_figures_stand_between_their_markers(page: str, names: list[str]) -> None:
    blocks = re.findall(r"<!-- figures: (\w+) -->\n.+?\n<!-- /figures: \1 -->", (ROOT / page).read_text(), re.DOTALL)
    assert sorted(blocks) == names


def test_headings_become_the_anchors_of_github() -> None:
    assert "layers-that-stay-in-16-bits" in anchors(ROOT / "docs/memory.md")
