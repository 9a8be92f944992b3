"""Charsets of pages: the web's labels and decoders, in the order in which browsers consult them; judged by html5lib."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.curation.readers.charsets import declared_encoding, decode
from kosmos_plugin.curation.readers.html import decode_html

html5lib = pytest.importorskip("html5lib")
inputstream = pytest.importorskip("html5lib._inputstream")


@pytest.mark.parametrize(
    "data, charset, text",
    [
        (b"\x93quoted\x94 \x97 \x80", "ISO-8859-1", "“quoted” — €"),
        (b"\x93quoted\x94", "us-ascii", "“quoted”"),
        (b"\x93quoted\x94", " Latin1\n", "“quoted”"),
        (b"a\x81b", "windows-1252", "a\x81b"),
        (b"\x87\x40 \x83\x65", "Shift_JIS", "① テ"),  # NEC's character
        (b"\xfa\x40", "shift-jis", "ⅰ"),  # IBM's
        (b"\xad\xa1 \xa5\xc6", "EUC-JP", "① テ"),
        (b"\x1b$B%F\x1b(B", "iso-2022-jp", "テ"),
        (b"\xb6\xab \x96\x7c \x80", "gb2312", "东 杮 €".replace("杮", b"\x96\x7c".decode("gb18030"))),
        (b"\x81\x30\x81\x30", "gbk", "\x80"),
        (b"\xb0\xa1 \x8c\x63", "euc-kr", "가 똠"),
        (b"\xa4\x40 \xf9\xd6", "big5", "一 碁"),
        (b"\xdf", "koi8-r", "ъ"),
        (b"\x80", "macintosh", "Ä"),
        (b"\x84\0A\0", "utf-16le", "\x84A"),
        (b"A\x80", "x-user-defined", "A\uf780"),
        (b"\xef\xbb\xbfcaf\xc3\xa9", "windows-1251", "café"),  # the mark goes before the server
        (b"\xff\xfea\0", "utf-8", "a"),
        (b"\xfe\xff\0a", None, "a"),
    ],
)
def test_labels_and_decoders_are_the_webs(data, charset, text):
    assert decode(data, charset) == text


def test_what_is_invalid_is_one_character_and_is_left_out():
    assert decode(b"a\xffb \xe2\x82 c", "utf-8") == "a\ufffdb \ufffd c"
    assert decode_html(b"a\xffb\0 \xe2\x82 c", "utf-8") == "ab  c"
    assert decode(b"abc", "iso-2022-kr") == "\ufffd"  # replacement: unsafe to decode


PAGE = "<html><head>{}</head><body>“café”</body></html>"


@pytest.mark.parametrize(
    "head, encoding",
    [
        ('<meta charset="windows-1252">', "cp1252"),
        ("<META http-equiv='Content-Type' content='text/html; charset=iso-8859-1'>", "cp1252"),
        ("<meta content='text/html;charset=utf-8' http-equiv=content-type>", "utf-8"),
        ('<meta charset="utf-16">', "utf-8"),
        ("<!-- <meta charset=utf-8> --><meta charset=windows-1252>", "cp1252"),
        ('<meta name="description" content="charset=utf-8"><meta charset=latin1>', "cp1252"),
        ('<meta charset="nonsense"><meta charset=windows-1252>', "cp1252"),
        ("<script>" + "x" * 2000 + "</script><meta charset=windows-1252>", "cp1252"),
        ("", "utf-8"),
    ],
)
def test_what_the_page_declares(head, encoding):
    page = PAGE.format(head)
    assert decode(page.encode(encoding)) == page
    assert decode(page.encode(encoding), "hex") == page  # an unknown charset of the server


def test_the_server_goes_before_the_page_and_the_page_before_xml():
    page = PAGE.format("<meta charset=koi8-r>")
    assert decode(page.encode("utf-8"), "UTF8") == page
    page = '<?xml version="1.0" encoding="windows-1252"?>' + PAGE
    assert decode(page.encode("cp1252")) == page
    assert declared_encoding(page.replace("{}", "<meta charset=koi8-r>").encode("cp1252")).name == "koi8-r"


ALIASES = [
    "latin1",
    "cp1252",
    "x-sjis",
    "ks_c_5601-1987",
    "gb_2312-80",
    "iso88592",
    "csbig5",
    "x-x-big5",
    "ms932",
    "mac",
]
LABELS = [*ALIASES, "utf8", "unicode-1-1-utf-8", "iso-8859-9", "tis-620", "dos-874", "logical", "koi8_r", "x-cp1250"]
DECLARATIONS = [
    "<meta charset={}>",
    "<meta charset='{}'/>",
    "<!--{}--><meta http-equiv=content-type content='a; charset={}'>",
]


@settings(max_examples=300, deadline=None)
@given(
    label=st.sampled_from(LABELS),
    form=st.sampled_from(DECLARATIONS),
    bom=st.sampled_from([b"", b"", b"\xef\xbb\xbf"]),
    server=st.sampled_from([None, *LABELS]),
)
def test_the_encoding_is_html5libs(label, form, bom, server):
    """The page of all printable bytes and its encoding, decoded by either."""
    body = bytes(range(32, 127)) + bytes(range(0xA1, 0xFF)) + b" " + bytes(range(0xFE, 0xA0, -1)) + b" end"
    data = bom + form.format(label, label).encode() + body
    stream = inputstream.HTMLBinaryInputStream(io.BytesIO(data), transport_encoding=server, useChardet=False)
    encoding = stream.charEncoding[0]
    rest = data[len(bom) :]
    expected = encoding.codec_info.decode(rest, "replace")[0]
    found = decode(data, server)
    assert found.replace("\ufffd", "")[:60] == expected.replace("\ufffd", "")[:60]
    assert ("end" in found) == ("end" in expected)
