"""Lines through samples: flat is flat, a leak is found through noise, short lives are left out."""

import os

import psutil
import pytest

from tests.faults.samples import MIB, Sample, Samples, look, slope


def _sample(at: float, rss: float, fds: int = 10) -> Sample:
    return Sample(at, round(rss * MIB), 0, round(rss * MIB), fds, 1, at / 10)


def test_the_slope_is_that_of_most_pairs() -> None:
    points = [(float(n), 2.0 * n) for n in range(20)]
    points[7] = (7.0, 1000.0)  # one wild value moves it little
    assert slope(points) == pytest.approx(2.0)
    assert slope(points[:1]) == 0.0


def test_a_leak_is_found_and_a_warm_up_is_not() -> None:
    found = Samples()
    for n in range(180):
        at = n * 10.0
        found.add("leaks", 1, 0.0, _sample(at, 80 + at / 3600 * 5 + (n % 3) / 10, fds=10 + n))
        found.add("warms up", 2, 0.0, _sample(at, 80 + min(at, 300.0) / 10))
    leaks, warms_up = found.growth(least=1200, settle=600)
    assert leaks.rss_slope == pytest.approx(5.0, abs=0.2)
    assert leaks.fds_slope == pytest.approx(360.0)
    assert leaks.cpu == pytest.approx(0.1)
    assert warms_up.rss_slope == 0.0


def test_short_lives_have_no_line() -> None:
    found = Samples()
    for n in range(10):
        found.add("short", 1, 0.0, _sample(n * 10.0, 80))
    assert found.growth(least=1200, settle=600) == []


def test_looks_at_a_process_that_lives_and_leaves_out_one_that_does_not() -> None:
    me = psutil.Process()
    sample = look(me, 1.0)
    assert sample.rss >= sample.pss > 0
    assert sample.fds == pytest.approx(len(os.listdir("/proc/self/fd")), abs=3)  # noqa: PTH208
    found = Samples()
    gone = psutil.Popen(["true"])
    gone.wait()
    found.take([("me", me), ("gone", gone)], 2.0)
    assert [role for role, *_ in found.lives()] == ["me"]
