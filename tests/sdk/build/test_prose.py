"""Running prose is taken out of pages, Markdown and plain text; code, tables, menus and other languages are not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.build.prose import LONGEST, documents, is_english, paragraphs_of_html, paragraphs_of_text, reads_as_prose

PAGE = """<!doctype html><html class="light sidebar-visible"><head><title>Tea</title><style>p {color: red}</style><body>
<nav><p>Home of the site, with all the pages that there are.</p></nav>
<div class="sphinxsidebar wide"><ul><li>Next topic is how to make coffee at home.</li></ul></div>
<main><h1>How to make tea¶</h1><p>Boil fresh water in a kettle, and warm the pot
with a little of it.<p>Then add <code>two</code> spoons of tea &amp; wait; it needs <b>four minutes</b> or so.
<pre>kettle --boil | pot</pre><h2>Nothing here</h2><table><tr><td>the price of tea in the shop is here</td></tr></table>
<h2>Milk</h2><ul><li>Some people pour the milk in first.<li>Others would never do that to their tea.</ul>
</main><footer><p>All of this was written by the tea makers.</p></footer></body></html>"""


def test_a_page_gives_its_paragraphs_and_items_under_their_headings_and_nothing_around_them() -> None:
    assert paragraphs_of_html(PAGE) == [
        "How to make tea\nBoil fresh water in a kettle, and warm the pot with a little of it.",
        "Then add two spoons of tea & wait; it needs four minutes or so.",
        "Milk\nSome people pour the milk in first.",
        "Others would never do that to their tea.",
    ]


def test_a_page_with_thousands_of_unclosed_tags_is_read_to_its_end() -> None:
    page = "<b>" * 5_000 + "".join(f"<p>This is the sentence that has number {word}.</p>" for word in ("one", "two"))
    assert paragraphs_of_html(page) == [f"This is the sentence that has number {word}." for word in ("one", "two")]


def test_markdown_loses_its_marks_its_code_and_its_addresses() -> None:
    text = (
        "# Tea\n\nBoil *fresh* water, as the [kettle's page](https://tea.example/kettle) says, and **wait** a bit.\n\n"
        "```sh\nboil the water and then wait for it\n```\n\n- Use two_spoons of `tea` for each of the guests.\n"
    )
    assert paragraphs_of_text(text) == [
        "Tea\nBoil fresh water, as the kettle's page says, and wait a bit.",
        "Use two_spoons of tea for each of the guests.",
    ]


def test_what_surrounds_a_gutenberg_text_goes() -> None:
    book = "Call me Ishmael, he said to them.\n\n" * 40
    start, end = (f"*** {mark} OF THIS PROJECT GUTENBERG EBOOK X ***" for mark in ("START", "END"))
    text = f"Licence of the site.\n\n{start}\n{book}\n{end}\nMore of the licence."
    assert set(paragraphs_of_text(text)) == {"Call me Ishmael, he said to them."}


def test_the_readme_of_this_project_reads_as_english_prose_without_code() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    found = paragraphs_of_text(text)
    assert len(found) >= 5
    assert is_english("\n".join(found))
    assert not any("```" in paragraph or "|" in paragraph for paragraph in found)


@pytest.mark.parametrize(
    "text",
    [
        "for (i = 0; i < n; i++) { sum += values[i]; }",
        "12.5 | 13.7 | 14.2 | 15.9 of the | 16.0",
        "See also:",
        "/usr/share/doc/tea/README.html",
    ],
)
def test_code_tables_and_captions_are_no_prose(text: str) -> None:
    assert not reads_as_prose(text)


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("We could meet at the station, and then you would have time for a coffee with your sister.", True),
        ("play something by the beatles that i like", True),
        ("Wir treffen uns am Bahnhof, und danach hast du noch Zeit für einen Kaffee mit deiner Schwester.", False),
        ("Nous pourrions nous retrouver à la gare, puis tu prendrais un café avec ta sœur avant le train.", False),
        ("apple pear plum cherry quince medlar orange lemon lime", False),
        ("", False),
    ],
)
def test_english_is_told_from_other_languages_and_word_lists(text: str, english: bool) -> None:
    assert is_english(text) is english


words = st.text("abc", min_size=1, max_size=9)
sentences = st.lists(words, min_size=1, max_size=60).map(lambda found: " ".join(found) + ".")


@given(paragraphs=st.lists(sentences, max_size=30), longest=st.integers(20, 300))
def test_documents_keep_every_word_in_order_and_never_pass_their_length(paragraphs: list[str], longest: int) -> None:
    found = list(documents(paragraphs, longest=longest))
    assert all(0 < len(text) <= longest for text in found)
    assert "".join("".join(found).split()) == "".join("".join(paragraphs).split())


def test_a_long_paragraph_is_cut_at_the_end_of_a_sentence() -> None:
    paragraph = "It was a long day for all of them. " * 400
    found = list(documents([paragraph]))
    assert len(found) == 3
    assert all(text.endswith(".") and len(text) <= LONGEST for text in found)
