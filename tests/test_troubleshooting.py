"""The messages in docs/troubleshooting.md are messages of the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
MESSAGES = re.findall(r"^\| `([^`]+)` \|", TEXT, re.MULTILINE)
_SOURCE = "\n".join(
    path.read_text("utf-8")
    for folder in ("workers", "operator")
    for path in sorted((ROOT / folder).rglob("*.py"))
)
CODE = re.sub(r'"\s*\n\s*f?"', "", _SOURCE)  # literals that follow each other are one


def parts(message: str) -> list[str]:
    """What of a message is the same each time: no dots, no names in capitals, no expectation."""
    fixed = message.removeprefix("expected ")
    return [p for p in re.split(r"…|[A-Z]{3,}|[()`;:,]", fixed) if len(p.strip()) > 4]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_the_code(message: str) -> None:
    assert parts(message)
    for part in parts(message):
        assert part.strip() in CODE, part


def test_every_row_is_found() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    assert len(MESSAGES) == len(rows) >= 15
