"""Chunks: exact spans, nothing lost, never longer than asked."""

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from rag.chunking import Chunking, chunks_of
from rag.document import ParsedDocument, Section


def word_starts(text: str) -> list[int]:
    """A token per word, and one per mark."""
    return [match.start() for match in re.finditer(r"\w+|[^\w\s]", text)]


def document(text: str, *borders: int) -> ParsedDocument:
    edges = [0, *borders, len(text)]
    sections = [Section(a, b, None, f"h{a}") for a, b in itertools.pairwise(edges) if b > a]
    return ParsedDocument(text, sections)


@given(
    st.text(st.sampled_from(list("ab cd. \n\n#-!?é漢")), max_size=600),
    st.integers(4, 40),
    st.integers(0, 12),
    st.integers(0, 600),
)
def test_spans_are_exact_nothing_is_lost_and_no_chunk_is_too_long(
    text: str, most: int, overlap: int, border: int
) -> None:
    made = list(chunks_of(document(text, min(border, len(text))), Chunking(most, min(overlap, most // 2)), word_starts))
    covered = [False] * len(text)
    for chunk in made:
        assert chunk.text == text[chunk.start : chunk.end] == chunk.text.strip() and chunk.text
        assert len(word_starts(chunk.text)) <= most
        covered[chunk.start : chunk.end] = [True] * (chunk.end - chunk.start)
    assert all(seen or character.isspace() for seen, character in zip(covered, text, strict=True))
    assert [chunk.start for chunk in made] == sorted({chunk.start for chunk in made})


def test_chunks_end_at_sentences_and_overlap() -> None:
    text = " ".join(f"Sentence {number} has six words." for number in range(12))
    made = list(chunks_of(document(text), Chunking(20, 7), word_starts))
    assert all(chunk.text.endswith(".") and chunk.text.startswith("Sentence") for chunk in made)
    assert all(later.start < earlier.end for earlier, later in itertools.pairwise(made))


def test_no_chunk_crosses_a_section() -> None:
    text = "One. Two. Three. Four."
    made = list(chunks_of(document(text, 10), Chunking(100, 0), word_starts))
    assert [(chunk.text, chunk.heading) for chunk in made] == [("One. Two.", "h0"), ("Three. Four.", "h10")]


def test_long_text_is_cut_in_stretches() -> None:
    sizes: list[int] = []

    def starts(text: str) -> list[int]:
        sizes.append(len(text))
        return word_starts(text)

    text = "word " * 60_000 + "x" * 120_000
    made = list(chunks_of(document(text), Chunking(100, 0), starts))
    assert max(sizes) <= 50_001 and sum(len(chunk.text.replace(" ", "")) for chunk in made) == 60_000 * 4 + 120_000
