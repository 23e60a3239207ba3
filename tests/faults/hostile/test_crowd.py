"""In a crowd of slow and silent peers the honest one is served; times belong to `crowd.main`."""

from pathlib import Path

from tests.faults.hostile.crowd import LIMITS, PATIENCE, crowded, echo_times, store_rate
from tests.faults.hostile.target import attacked


def test_the_honest_one_is_served_in_a_crowd(tmp_path: Path) -> None:
    with attacked(tmp_path, **PATIENCE, **LIMITS) as target:
        with crowded(target.port, 300, within=100) as crowd:
            assert echo_times(target.port, 1)
            assert store_rate(target.port, 1) > 0
            assert target.threads() < 250  # of 300 peers those before their association have none
        assert crowd.count > 0
        assert target.is_alive()
        assert target.errors() == ""
