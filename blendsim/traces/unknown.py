"""Why a file is of no format that is read, where its beginning shows it: what to do then is one
sentence instead of the list of all formats.
"""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE

from blendsim.errors import InputError
from blendsim.traces.jsonl import json_object

_UTF_16_OR_32 = (BOM_UTF16_LE, BOM_UTF16_BE, BOM_UTF32_LE, BOM_UTF32_BE)
#: How files begin that hold others; gzip is read, and not among them.
_ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook; take the file out of it, or save it as CSV",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it, or compress it by gzip",
    b"\xfd7zXZ\x00": "compressed by xz; decompress it, or compress it by gzip",
    b"BZh": "compressed by bzip2; decompress it, or compress it by gzip",
}


def reason(line: bytes) -> str | None:
    """What a file is that begins with `line`, and what to do, or None if that does not show."""
    for magic, what in _ARCHIVES.items():
        if line.startswith(magic):
            return what
    if line.startswith(_UTF_16_OR_32):
        return "text in UTF-16 or UTF-32; save the file as UTF-8"
    if not line.strip(b"\0\r\n"):
        return "nothing but NUL bytes, probably a damaged copy; fetch or write it again"
    if b"\0" in line:
        return None  # no text
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return "not UTF-8 text; save the file as UTF-8"
    return _of_json(text) if text.startswith(("{", "[")) else _of_csv(text)


def _of_json(text: str) -> str | None:
    if text.startswith("["):
        return "a JSON array; write JSON Lines, one object a line"
    if text == "{":
        return "a JSON object over several lines; write JSON Lines, one object a line"
    try:
        json_object(text, "its first line")
    except InputError as error:
        return str(error).replace(": ", " ", 1)
    return None


def _of_csv(text: str) -> str | None:
    if "\r" in text:
        return "its lines end in CR alone; save it with LF or CRLF"
    if text.startswith("#"):
        return "a comment; begin the file with the names of the columns"
    if "," not in text:
        for mark, name in ((";", "semicolons"), ("\t", "tabs")):
            if mark in text:
                return f"its fields are separated by {name}; separate them by commas"
    if all(_is_number(field) for field in text.split(",")):
        return (
            "numbers where the names of the columns should be; begin the file with a line such as "
            "input_tokens,output_tokens"
        )
    return None


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
