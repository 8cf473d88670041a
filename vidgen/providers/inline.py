"""
Reads JSON answers that carry a whole video as base64, without ever holding the video.

Vertex AI without a bucket answers a poll with tens of megabytes in one string. A poll needs only
to know that the string exists; a download needs only the string. One scanner serves both: it walks
the bytes from quote to quote, copies what is short, leaves out what is long, and hands over the
value of one key in pieces: of `bytesBase64Encoded`, unless another is named.
"""

import binascii
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import suppress

from vidgen.errors import ProtocolError, ResultInvalidError

KEY = b"bytesBase64Encoded"
ELIDED = b"(elided)"
MAX_STRING_BYTES = 16 * 1024
MAX_REST_BYTES = 1024 * 1024

_UNPRINTED = b"\r\n\t "
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")  # base64url, where a server writes that


class InlineScanner:
    """
    Walks JSON as it arrives; `small` is the same JSON with every long string replaced.

    Args:
        wanted: Which text that *key* holds to hand over, counted from 0; None for none.
    """

    def __init__(self, wanted: int | None = None, key: bytes = KEY) -> None:
        """Start before the first byte."""
        self._key = key
        self.small = bytearray()
        self.wanted_is_over = False
        self._wanted = wanted
        self._values = 0
        self._in_string = False
        self._is_wanted = False
        self._string = bytearray()  # content of the string we are in, while it is short
        self._is_long = False
        self._last = b""  # the string before
        self._between = bytearray()  # what stood between that one and now
        self._escape = b""  # an escape sequence that is not whole yet

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """
        Take the next bytes; yields the pieces of the wanted value, as base64.

        Raises:
            ProtocolError: What is left without the long strings is more than 1 MiB.
        """
        at, quote, backslash = 0, -1, -1
        while at < len(chunk):
            if self._escape:
                at = yield from self._unescape(chunk, at)
                continue
            # Each search runs over a byte once only, however the quotes and backslashes lie.
            if quote < at:
                quote = _find(chunk, b'"', at)
            if not self._in_string:
                self._outside(chunk[at:quote])
                at = quote + 1
                if quote < len(chunk):
                    self._open()
                continue
            if backslash < at:
                backslash = _find(chunk, b"\\", at)
            end = min(quote, backslash)
            yield from self._inside(chunk[at:end])
            at = end + 1
            if end == len(chunk):
                return
            if end == quote:
                self._close()
            else:
                self._escape = b"\\"

    def _outside(self, piece: bytes) -> None:
        self.small += piece
        if len(self._between) < 64:  # enough to tell a colon from anything else
            self._between += piece
        if len(self.small) > MAX_REST_BYTES:
            raise ProtocolError(f"An answer of more than {MAX_REST_BYTES} bytes came.")

    def _open(self) -> None:
        is_value = self._between.strip() == b":" and self._last == self._key
        self._is_wanted = is_value and self._values == self._wanted
        self._values += is_value
        self._in_string, self._is_long = True, False
        self._string.clear()

    def _inside(self, piece: bytes) -> Iterator[bytes]:
        if self._is_wanted:
            yield piece
        if not self._is_long:
            self._string += piece
            if len(self._string) > MAX_STRING_BYTES:
                self._is_long = True
                self._string[:] = ELIDED

    def _unescape(self, chunk: bytes, at: int) -> Generator[bytes, None, int]:
        while at < len(chunk):
            self._escape += chunk[at : at + 1]
            at += 1
            if len(self._escape) == (6 if self._escape[1:2] == b"u" else 2):
                escape, self._escape = self._escape, b""
                if self._is_wanted:
                    yield _plain(escape)
                if not self._is_long:
                    self._string += escape
                break
        return at

    def _close(self) -> None:
        self.wanted_is_over = self.wanted_is_over or self._is_wanted
        self._in_string = self._is_wanted = False
        self._last = bytes(self._string)
        self._between.clear()
        self._outside(b'"' + self._last + b'"')
        self._between.clear()


async def shrink(chunks: AsyncIterator[bytes]) -> bytes:
    """Read JSON to its end; what comes back is the same JSON with `(elided)` for long strings."""
    scanner = InlineScanner()
    async for chunk in chunks:
        for _ in scanner.feed(chunk):
            pass  # nothing is wanted
    return bytes(scanner.small)


async def decoded(
    chunks: AsyncIterator[bytes], index: int = 0, key: bytes = KEY
) -> AsyncIterator[bytes]:
    """
    Decode the text number *index* that *key* holds in the JSON in *chunks*, as it arrives.

    Raises:
        ResultInvalidError: No such video, no base64, or the answer ended within it.
    """
    scanner = InlineScanner(wanted=index, key=key)
    rest = b""
    async for chunk in chunks:
        for piece in scanner.feed(chunk):
            text = rest + piece.translate(_TO_STANDARD, _UNPRINTED)
            whole = len(text) & ~3
            rest = text[whole:]
            # Padding ends the value, so it must not be decoded before we know the end.
            if text.endswith(b"=", 0, whole):
                whole, rest = whole - 4, text[whole - 4 :]
            if whole > 0:
                yield _decode(text[:whole])
        if scanner.wanted_is_over:
            if rest:
                yield _decode(rest + b"=" * (-len(rest) % 4))
            return
    raise ResultInvalidError("The answer ended before the video in it did.")


def _decode(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as error:
        raise ResultInvalidError("The video in the answer is no base64.") from error


def _plain(escape: bytes) -> bytes:
    """Turn an escape into its byte: encoders may write `/` as `\\/` and `=` as `\\u003d`."""
    if escape[1:2] == b"u":
        with suppress(ValueError):
            digits = escape[2:].decode("ascii", "replace")
            return chr(int(digits, 16)).encode("utf-8", "replace")
        return b"?"
    return {b"n": b"\n", b"r": b"\r", b"t": b"\t"}.get(escape[1:2], escape[1:2])


def _find(chunk: bytes, wanted: bytes, at: int) -> int:
    found = chunk.find(wanted, at)
    return found if found >= 0 else len(chunk)
