from collections.abc import Iterator

import pytest

from tests.monitoring import servers
from tests.monitoring.exporter import Cluster

ENOUGH = 24  # samples: six rate windows


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has scraped the simulated cluster for some seconds."""
    if servers.INSTALLED is None:
        pytest.skip("prometheus is not installed")
    folder = tmp_path_factory.mktemp("prometheus")
    with servers.prometheus(folder, Cluster(period=1.2), "250ms") as address:
        for selector in ("splittracr_samples_expected", 'splittracr_studies{state="Running"}'):
            servers.wait_for_samples(address, selector, ENOUGH)
        yield address
