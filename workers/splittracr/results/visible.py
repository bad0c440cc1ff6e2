"""Makes text from elsewhere safe for a terminal: names of files, messages of other machines."""

_SYMBOLS: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "␡",
    **dict.fromkeys(range(0x80, 0xA0), "�"),
    # What changes the order of letters around it.
    **dict.fromkeys([0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "�"),
}


def visible(text: str) -> str:
    """`text` with a symbol for each control character except line breaks and tabs."""
    return text.translate(_SYMBOLS)
