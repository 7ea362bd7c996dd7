"""Links of all pages lead to files, headings and pictures (mkdocs checks docs/ again)."""

import re
import unicodedata

import pytest
from checkout import ROOT
from pages import FENCE, INLINE, PAGES

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors of headings, as GitHub and mkdocs derive them from plain text."""
    found = set()
    for title in HEADING.findall(FENCE.sub("", text)):
        plain = unicodedata.normalize("NFKD", re.sub(r"[`*]", "", title)).lower()
        plain = re.sub(r"[^\w\s-]", "", plain).strip()
        found.add(re.sub(r"[\s]+", "-", plain))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda x: str(x.relative_to(ROOT)))
def test_links(page):
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(INLINE.sub("", FENCE.sub("", text))):
        if re.match("https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: no {target}"
        assert ROOT in file.parents, target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


def test_every_page_of_docs_can_be_found_from_the_site():
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = set(re.findall(r": (\S+\.md)$", nav, re.MULTILINE))
    there = {str(x.relative_to(ROOT / "docs")) for x in ROOT.glob("docs/**/*.md")}
    assert listed == there
