"""The Grafana dashboards as JSON in the classic format, which Grafana 10 to 13 and sidecars read.

The files are generated: users need neither these modules nor grafana-foundation-sdk.
"""

from splittracr.monitoring import board_fleet, board_operator, board_study
from splittracr.monitoring.build import text_of

_BOARDS = {
    "study": board_study.board,
    "fleet": board_fleet.board,
    "operator": board_operator.board,
}


def document(name: str) -> str:
    """The JSON of a dashboard, the same for the same sources."""
    return text_of(_BOARDS[name]())
