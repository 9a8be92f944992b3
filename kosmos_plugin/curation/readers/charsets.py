"""Bytes of a page → text, as browsers decode them (https://encoding.spec.whatwg.org, HTML's "encoding sniffing").

A byte order mark goes before the server's charset, that before what the page declares in its first 1,024 bytes. Labels
are the web's: ISO-8859-1 is windows-1252, gb2312 is gb18030 and Shift_JIS is windows-31j, with vendors' characters.
"""

import codecs
import re

import webencodings
from resiliparse.parse.encoding import detect_encoding

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_BE, "utf-16be"), (codecs.BOM_UTF16_LE, "utf-16le"))
_DECLARED_WITHIN = 1024
# Browsers also obey a declaration that they meet later while parsing the head.
_DECLARED_LATE_WITHIN = 2**16

_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_META = re.compile(rb"<meta[\s/][^>]*", re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"""([^\s=/>]+)\s*(?:=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+)))?""")
_CHARSET = re.compile(rb"""charset\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s;"']+))""", re.IGNORECASE)
_XML = re.compile(rb"""\s*<\?xml\s[^>]*?encoding\s*=\s*["']([^"'>]*)["']""")


def decode(data: bytes, charset: str | None = None) -> str:
    """Decode a page.

    Args:
        data: Its bytes.
        charset: The charset that the server states; an unknown one is as none.

    Returns:
        Its text, with U+FFFD for invalid bytes.
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return _decode(data[len(mark) :], _lookup(name))
    encoding = _lookup(charset) or declared_encoding(data[:_DECLARED_WITHIN])
    if encoding is None:
        encoding = _guess(data)
    return _decode(data, encoding)


def declared_encoding(data: bytes) -> webencodings.Encoding | None:
    """The encoding that the beginning of a page declares in <meta>, or else in its XML declaration."""
    for tag in _META.findall(_COMMENT.sub(b"", data)):
        attributes: dict[bytes, bytes] = {}
        for name, *values in _ATTRIBUTE.findall(tag[5:]):
            attributes.setdefault(name.lower(), b"".join(values))
        label = attributes.get(b"charset")
        if label is None and attributes.get(b"http-equiv", b"").lower() == b"content-type":
            match = _CHARSET.search(attributes.get(b"content", b""))
            label = b"".join(filter(None, match.groups())) if match else None
        if label is not None and (encoding := _declared(label)) is not None:
            return encoding
    match = _XML.match(data)
    return _declared(match[1]) if match else None


def _declared(label: bytes) -> webencodings.Encoding | None:
    """As in the standard: whoever could read "utf-16" in ASCII was not reading UTF-16."""
    encoding = _lookup(label.decode("latin-1"))
    if encoding is None or not encoding.name.startswith("utf-16"):
        return _lookup("windows-1252") if encoding is not None and encoding.name == "x-user-defined" else encoding
    return webencodings.UTF8


def _guess(data: bytes) -> webencodings.Encoding:
    """The encoding of a page that states none: UTF-8 if it is valid, or a late declaration, or what it looks like."""
    try:
        data.decode("utf-8")
        return webencodings.UTF8
    except UnicodeDecodeError:
        late = declared_encoding(data[:_DECLARED_LATE_WITHIN])
        return late or _lookup(detect_encoding(data)) or _lookup("windows-1252") or webencodings.UTF8


def _lookup(label: str | None) -> webencodings.Encoding | None:
    return webencodings.lookup(label) if label is not None and label.isascii() else None


def _decode(data: bytes, encoding: webencodings.Encoding | None) -> str:
    assert encoding is not None
    if encoding.name == "replacement":  # of encodings in which text can hide from filters
        return "\ufffd"
    if encoding.name == "gbk":
        encoding = webencodings.lookup("gb18030")
    return str(encoding.codec_info.decode(data, "kosmos-web")[0])


def _replace(error: UnicodeError) -> tuple[str, int]:
    """U+FFFD for invalid bytes, and the standard's control characters for single bytes that Python leaves undefined.

    EUC-JP has vendors' characters in rows that Python does not know; they are those of windows-31j.
    """
    assert isinstance(error, UnicodeDecodeError)
    data = error.object[error.start : error.end]
    if error.encoding == "charmap" and data[0] < 0xA0:
        return chr(data[0]), error.start + 1
    if error.encoding == "gb18030" and data[0] == 0x80:
        return "€", error.start + 1
    if error.encoding == "euc_jp":
        pair = error.object[error.start : error.start + 2]
        if len(pair) == 2 and all(0xA1 <= byte <= 0xFE for byte in pair):
            row, cell = pair[0] - 0xA1, pair[1] - 0xA1
            place = 94 * (row % 2) + cell
            shifted = bytes([row // 2 + (0x81 if row < 62 else 0xC1), place + (0x40 if place < 63 else 0x41)])
            return shifted.decode("cp932", "replace")[:1], error.start + 2
    return "\ufffd", error.end


codecs.register_error("kosmos-web", _replace)
