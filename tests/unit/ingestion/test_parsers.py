"""Bytes to text, in this process; what limits are for is in the integration tests."""

from __future__ import annotations

import io

import pytest
from pypdf import PdfReader, PdfWriter
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from services.ingestion.errors import DocumentRejected
from services.ingestion.parsers import extract

RUSSIAN = "Все люди рождаются свободными и равными в своем достоинстве и правах. " * 5  # noqa: RUF001


def reason(content_type: str, body: bytes) -> str:
    with pytest.raises(DocumentRejected) as caught:
        extract(content_type, body)
    assert caught.value.message
    return caught.value.reason


def pdf(*pages: str) -> bytes:
    out = io.BytesIO()
    canvas = Canvas(out)
    for page in pages:
        canvas.drawString(72, 720, page)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def encrypted(body: bytes, password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(body)))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


class TestText:
    def test_is_normalised_and_loses_its_mark(self) -> None:
        assert extract("text/plain", b"\xef\xbb\xbfcafe\xcc\x81\r\nb\rc\x00d").text == "caf\u00e9\nb\nc d"

    def test_that_is_not_utf8_is_rejected_at_its_byte(self) -> None:
        with pytest.raises(DocumentRejected, match="at byte 3") as caught:
            extract("text/plain", b"abc\xff")
        assert caught.value.reason == "NOT_UTF8"

    def test_of_spaces_alone_is_no_text(self) -> None:
        assert reason("text/markdown", b"\n \t\n") == "NO_TEXT"

    def test_above_the_limit_is_rejected(self) -> None:
        assert reason("text/plain", b"a" * ((4 << 20) + 1)) == "TEXT_TOO_LONG"


class TestMarkdown:
    def test_front_matter_goes_and_gives_the_title(self) -> None:
        extracted = extract("text/markdown", b"---\ntitle: 'A title'\ntags: [x]\n---\n# One\n\ntext\n")

        assert extracted.title == "A title"
        assert extracted.text == "# One\n\ntext\n"

    def test_a_rule_at_the_start_is_no_front_matter(self) -> None:
        assert extract("text/markdown", b"---\n\ntext").text == "---\n\ntext"

    def test_headings_are_found_outside_code(self) -> None:
        text = "# One #\n\n```sh\n# not\n```\n\nTwo\n---\n\n~~~\n```\n# nor\n~~~\n\n### Three\n#hash\n"

        headings = extract("text/markdown", text.encode()).headings

        assert [(heading.level, heading.title) for heading in headings] == [(1, "One"), (2, "Two"), (3, "Three")]
        assert text[headings[1].start :].startswith("Two\n")


class TestHtml:
    def test_is_read_as_a_reader_sees_it(self) -> None:
        page = b"""<!doctype html><html><head><title>The  title</title><style>p {}</style></head><body>
            <nav>menu</nav><h1>Big <b>one</b></h1><p>He<i>llo</i> &amp; good\n bye<br>now</p>
            <ul><li><p>first</p><li>second</ul><table><tr><th>a<td>b<tr><td>c</table>
            <pre>x\n  y</pre><script>evil()</script><!-- hidden --><h2></h2>tail</body></html>"""

        extracted = extract("text/html", page)

        assert extracted.title == "The title"
        assert extracted.text == (
            "# Big one\n\nHello & good bye\nnow\n\n- first\n\n- second\n\na b\nc\n\nx\n  y\n\ntail"
        )
        assert [(heading.start, heading.level, heading.title) for heading in extracted.headings] == [(0, 1, "Big one")]

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ("<p>caf\u00e9</p>".encode(), "caf\u00e9"),
            (b"\xff\xfe" + "<p>caf\u00e9</p>".encode("utf-16-le"), "caf\u00e9"),
            ("<meta charset=windows-1251><p>\u043c\u0438\u0440".encode("cp1251"), "\u043c\u0438\u0440"),
            (
                '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1"><p>\u20ac'.encode("cp1252"),
                "\u20ac",
            ),
            ("<meta charset=iso-8859-1><p>caf\u00e9".encode(), "caf\u00e9"),
            (RUSSIAN.encode("cp1251"), RUSSIAN.strip()),
            ("<meta charset=iso-2022-jp><p>\u65e5\u672c".encode("iso-2022-jp"), "\u65e5\u672c"),
        ],
        ids=["utf-8", "mark", "declared", "latin-1 means cp1252", "declared wrongly", "undeclared", "seven bits"],
    )
    def test_encodings_are_found(self, body: bytes, text: str) -> None:
        assert extract("text/html", body).text == text

    @pytest.mark.parametrize("declared", [b"utf-8", b"utf-16", b"euc-jp", b"no-such-thing"])
    def test_a_declared_encoding_that_does_not_fit_is_rejected(self, declared: bytes) -> None:
        assert reason("text/html", b"<meta charset=" + declared + b"><p>caf\xff\xfe\xe9") == "ENCODING_UNKNOWN"

    def test_an_encoding_that_could_be_many_is_rejected_rather_than_guessed(self) -> None:
        assert reason("text/html", b"<p>caf\xe9") == "ENCODING_UNKNOWN"

    def test_nesting_is_read_up_to_the_limit(self) -> None:
        assert extract("text/html", b"<div>" * 4000 + b"deep").text == "deep"
        assert reason("text/html", b"<div>" * 100_000 + b"deep") == "HTML_TOO_DEEP"

    def test_elements_that_need_no_end_are_not_deep(self) -> None:
        assert extract("text/html", b"<p>a<br><li>b" * 6_000).text.count("b") == 6_000


class TestPdf:
    def test_pages_are_apart(self) -> None:
        assert extract("application/pdf", pdf("first page", "second page")).text == "first page\n\nsecond page"

    def test_encrypted_is_rejected_unless_everybody_may_read_it(self) -> None:
        assert reason("application/pdf", encrypted(pdf("secret"), "password")) == "PDF_ENCRYPTED"
        assert extract("application/pdf", encrypted(pdf("open"), "")).text == "open"

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_truncated_is_rejected(self, share: float) -> None:
        whole = pdf("first page", "second page")

        assert reason("application/pdf", whole[: int(len(whole) * share)]) == "PDF_DAMAGED"

    def test_what_is_no_pdf_is_rejected(self) -> None:
        assert reason("application/pdf", b"not a PDF %%EOF") == "PDF_DAMAGED"

    def test_without_a_text_layer_is_rejected(self) -> None:
        assert reason("application/pdf", pdf("")) == "NO_TEXT"
