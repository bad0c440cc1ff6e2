from decimal import Decimal

import pytest

from splittracr.experiment.pods import Quantity, amount


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        (3, Decimal(3)),
        ("0", Decimal(0)),
        ("250m", Decimal("0.25")),
        ("1.5Gi", Decimal(3 * 2**29)),
        ("2k", Decimal(2000)),
        ("1E", Decimal(10**18)),
        ("1Ei", Decimal(2**60)),
    ],
)
def test_amounts(quantity: Quantity, value: Decimal) -> None:
    assert amount(quantity) == value
