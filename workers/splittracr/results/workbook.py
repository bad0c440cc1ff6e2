"""`summary.xlsx`: the figures of a study as a workbook."""

import io
from collections.abc import Sequence
from datetime import datetime

import polars as pl
import xlsxwriter

NOT_MEASURED = "not measured"

_WIDEST = 42  # characters


def workbook(sheets: Sequence[tuple[str, pl.DataFrame, bool]], made_at: datetime) -> bytes:
    """The bytes of a workbook: the name and the rows of each sheet, and whether null means that it
    was not measured; otherwise the cell is empty. The same rows and time give the same bytes.
    """
    buffer = io.BytesIO()
    # Text stays text, also with a leading "=": names come from files and other machines.
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with xlsxwriter.Workbook(buffer, options) as book:
        book.set_properties({"created": made_at.replace(tzinfo=None)})
        bold, quiet = book.add_format({"bold": True}), book.add_format({"font_color": "#777777"})
        for name, rows, marked in sheets:
            sheet = book.add_worksheet(name)
            sheet.freeze_panes(1, 0)
            for column, series in enumerate(rows):
                sheet.write_string(0, column, series.name, bold)
                values = series.to_list()
                for row, value in enumerate(values, start=1):
                    if value is not None:
                        sheet.write(row, column, value)
                    elif marked or _is_energy(series.name):
                        sheet.write_string(row, column, NOT_MEASURED, quiet)
                sheet.set_column(column, column, _width(series.name, values))
    return buffer.getvalue()


def _is_energy(column: str) -> bool:
    return "joules" in column or "energy" in column


def _width(name: str, values: Sequence[object]) -> int:
    longest = max((len(f"{v:.6g}" if isinstance(v, float) else str(v)) for v in values), default=0)
    return min(_WIDEST, max(len(name), longest) + 2)
