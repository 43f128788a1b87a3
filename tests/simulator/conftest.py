from collections.abc import Iterator

import pytest

from tests.support.simulated import SimulatorThread, running_simulator


@pytest.fixture
def simulator() -> Iterator[SimulatorThread]:
    """A fresh one for each test, that keeps raw bodies."""
    with running_simulator(keep_raw=True) as running:
        yield running
