"""A file of HTML, Markdown or plain text in; documents of running prose out.

Kept: paragraphs, list items, quotations, and headings that prose follows. Left out: code, tables, menus, forms, and
what surrounds the page.
"""

import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser

__all__ = [
    "LONGEST",
    "SHORTEST",
    "documents",
    "is_english",
    "paragraphs_of_html",
    "paragraphs_of_text",
    "reads_as_prose",
]

SHORTEST = 200
LONGEST = 6_000
"""Characters of a document."""

FEWEST_WORDS = 4  # Shorter paragraphs are captions, prices and "see also".
LEAST_LETTERS = 0.75  # Letters and spaces among a paragraph's characters; prose has above 0.9, tables and code fewer.
MOST_CODE = 0.02  # Signs of code among them; one is always allowed.
DEEPEST = 64  # Open tags that an end tag is looked for among: pages with thousands of unclosed tags stay quick.
LEAST_ENGLISH = 0.15  # Function words among the words; English prose has 0.3 to 0.5, other languages under 0.1.
_CODE = re.compile(r"[{}\[\]<>=_\\|#^~`@$]|::|->|//")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_ENGLISH = frozenset(
    _WORD.findall(
        """
        a about after all also an and are as at be been but by can could did do does for from had has have he her him
        his how i if in into is it its just like me more my no not of on one or other our out she should so some than
        that the their them then there these they this those to up us was we were what when where which who will with
        would you your
        """
    )
)
_BLOCKS = frozenset({"p", "li", "dd", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6"})
_SKIPPED = frozenset(
    {"aside", "audio", "button", "footer", "form", "head", "header", "nav", "pre", "script", "select", "style", "sup"}
    | {"svg", "table", "textarea", "title", "video"}
)
_MENUS = frozenset(
    {
        "breadcrumbs",
        "footer",
        "menu",
        "navfooter",
        "navheader",
        "navigation",
        "related",
        "sidebar",
        "sphinxsidebar",
        "toc",
    }
    | {"toctree-wrapper", "yui3-breadcrumbs"}
)
"""Classes, ids and roles of what surrounds a page."""
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)
_GUTENBERG = re.compile(r"\*\*\* ?(?:START|END) OF (?:THE|THIS) PROJECT GUTENBERG[^\n]*", re.IGNORECASE)


class _Page(HTMLParser):
    """Collects (is a heading, text) of a page's blocks; a tag that nobody closed ends with what it stands in."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[bool, str]] = []
        self._open: list[tuple[str, bool]] = []  # Tags, each with whether all in it is left out.
        self._text: list[str] = []
        self._heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            self._text.append(" ")
            return
        if tag == "body":  # HTML lets the head go unclosed.
            self._open.clear()
            self._text.clear()
        if tag in _BLOCKS:
            self.flush()
            self._heading = len(tag) == 2 and tag[0] == "h"
            if self._open and self._open[-1][0] == "p":  # HTML lets a paragraph end where the next block begins.
                self._open.pop()
        about = {word for name, value in attrs if name in ("class", "id", "role") for word in (value or "").split()}
        left_out = bool(self._open) and self._open[-1][1]
        self._open.append((tag, left_out or tag in _SKIPPED or bool(about & _MENUS)))

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.flush()
        for place in range(len(self._open) - 1, max(-1, len(self._open) - DEEPEST), -1):
            if self._open[place][0] == tag:
                del self._open[place:]
                return

    def handle_data(self, data: str) -> None:
        if not (self._open and self._open[-1][1]):
            self._text.append(data)

    def flush(self) -> None:
        if text := " ".join("".join(self._text).replace("¶", " ").split()):
            self.blocks.append((self._heading, text))
        self._text, self._heading = [], False


def paragraphs_of_html(page: str) -> list[str]:
    """The page's paragraphs and list items, each heading on the line above its first."""
    parser = _Page()
    parser.feed(page)
    parser.close()
    parser.flush()
    return _under_headings(parser.blocks)


def paragraphs_of_text(text: str) -> list[str]:
    """Paragraphs between blank lines of plain text or Markdown, lines joined; what surrounds a Gutenberg text goes."""
    parts = _GUTENBERG.split(text)
    body = max(parts, key=len).replace("\r\n", "\n")
    body = re.sub(r"^(```|~~~).*?^\1[^\n]*$", "", body, flags=re.MULTILINE | re.DOTALL)
    blocks = []
    for part in re.split(r"\n\s*\n", body):
        heading = part.lstrip().startswith("#")
        part = re.sub(r"^\s*(?:#+|>|[-*+]|\d+[.)])\s+", "", part, flags=re.MULTILINE)
        part = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", part)  # A link's words stay, its address goes.
        part = re.sub(r"(\*\*|__|`)(?=\S)(.+?)(?<=\S)\1|(?<!\w)[_*](?=\S)(.+?)(?<=\S)[_*](?!\w)", r"\2\3", part)
        if text_ := " ".join(part.split()):
            blocks.append((heading, text_))
    return _under_headings(blocks)


def _under_headings(blocks: Iterable[tuple[bool, str]]) -> list[str]:
    found, heading = [], ""
    for is_heading, text in blocks:
        if is_heading:
            heading = text
        elif reads_as_prose(text):
            found.append(f"{heading}\n{text}" if heading else text)
            heading = ""
    return found


def reads_as_prose(paragraph: str) -> bool:
    """Whether a paragraph is words in a row, not a table, a signature, a path or code."""
    words = _WORD.findall(paragraph)
    letters = sum(map(len, words)) + paragraph.count(" ")
    return (
        min(len(words), len(paragraph.split())) >= FEWEST_WORDS
        and letters >= LEAST_LETTERS * len(paragraph)
        and len(_CODE.findall(paragraph)) <= max(1, MOST_CODE * len(paragraph))
    )


def is_english(text: str) -> bool:
    """Whether enough of the words are English function words: told apart from other languages and from word lists."""
    words = [word.casefold() for word in _WORD.findall(text)]
    return bool(words) and sum(word in _ENGLISH for word in words) >= LEAST_ENGLISH * len(words)


def documents(paragraphs: Iterable[str], *, longest: int = LONGEST) -> Iterator[str]:
    """Put consecutive paragraphs together to documents of at most `longest` characters.

    A longer paragraph is cut at the end of a sentence, or anywhere where there is none.
    """
    held: list[str] = []
    size = 0
    for part in (piece for paragraph in paragraphs for piece in _pieces(paragraph, longest)):
        if held and size + len(part) + 2 > longest:
            yield "\n\n".join(held)
            held, size = [], 0
        held.append(part)
        size += len(part) + 2
    if held:
        yield "\n\n".join(held)


def _pieces(paragraph: str, longest: int) -> Iterator[str]:
    while len(paragraph) > longest:
        ends = [match.end() for match in re.finditer(r"[.!?][\"'”’)]*\s", paragraph[:longest])]
        cut = ends[-1] if ends else longest
        yield paragraph[:cut].strip()
        paragraph = paragraph[cut:].strip()
    if paragraph:
        yield paragraph
