"""The Grafana dashboards as JSON in the classic format, for Grafana 10 to 13 and its sidecars.

The files are generated. Users need neither these modules nor grafana-foundation-sdk.
"""

from splittracr.monitoring import board_fleet, board_operator, board_study
from splittracr.monitoring.build import text_of

_BOARDS = {
    "study": board_study.board,
    "fleet": board_fleet.board,
    "operator": board_operator.board,
}


def document(name: str) -> str:
    """Return the JSON of a dashboard. The same sources give the same JSON."""
    return text_of(_BOARDS[name]())
