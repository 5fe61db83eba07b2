"""PDF: the text layer, page by page."""

from __future__ import annotations

from io import BytesIO
from typing import Final

from pypdf import PasswordType, PdfReader
from pypdf.errors import DependencyError, LimitReachedError, PyPdfError

from services.ingestion.errors import DocumentRejected

from . import Extracted, check_length, normalise

_END: Final = b"%%EOF"
_END_WITHIN: Final = 4096


def extract_pdf(body: bytes) -> Extracted:
    """Raises DocumentRejected for what is encrypted or damaged. A whole file ends with its mark; a reader that mends a
    cut one would give its beginning for the whole."""
    if _END not in body[-_END_WITHIN:]:
        raise _damaged("its end is missing")
    try:
        reader = PdfReader(BytesIO(body))
        # many files are encrypted under the empty password: everybody may read them
        if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
            raise DocumentRejected("PDF_ENCRYPTED", "the PDF needs a password; send it without one")
        pages: list[str] = []
        length = 0
        for page in reader.pages:
            text = page.extract_text().strip()
            if text:
                pages.append(text)
                length += len(text) + 2
                check_length(length)
    except DependencyError:
        raise DocumentRejected("PDF_ENCRYPTED", "the PDF's encryption cannot be read; send it without") from None
    except LimitReachedError:
        raise DocumentRejected("PDF_TOO_LARGE", "a part of the PDF unpacks to more than is allowed") from None
    except (PyPdfError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError) as error:
        # what the library runs into, depending on where a file is broken
        raise _damaged(f"it cannot be read ({type(error).__name__})") from None
    return Extracted(normalise("\n\n".join(pages)))


def _damaged(why: str) -> DocumentRejected:
    return DocumentRejected("PDF_DAMAGED", f"the PDF is damaged: {why}; send the whole file again")
