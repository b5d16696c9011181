"""Several processes work on one study: no error, every trial once, and the numbers of one worker."""

import pytest

from tests.benches import bench


@pytest.mark.slow
def test_four_workers_share_a_study() -> None:
    done = bench("faults.workers", "--workers", "4", "--trials", "16", "--no-optuna")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "each is there exactly once" in done.stdout
    assert "give every candidate the numbers of one worker, bit for bit" in done.stdout
