"""What is said of a Ray cluster that cannot be used, from what Ray itself raises."""

import platform

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]  # of Ray, which takes seconds to load


def test_other_versions_are_named() -> None:
    from ray._private.utils import check_version_info

    from dynamoe_search.clusters.driver import _sentence

    theirs = {"ray_version": "2.1.0", "python_version": "3.12.1"}
    with pytest.raises(RuntimeError) as caught:
        check_version_info(theirs, "node 10.0.0.7", True, "minor")
    said = _sentence("head:6379", caught.value)
    assert said.startswith(
        f"the Ray cluster at head:6379 runs Ray 2.1.0 and Python 3.12.1, and {platform.node()} has Ray "
    )
    assert said.endswith(
        f" and Python {platform.python_version()}; install the same on all machines"
    )


def test_no_cluster_on_this_machine() -> None:
    from dynamoe_search.clusters.driver import _sentence

    said = _sentence("auto", ConnectionError("Could not find any running Ray instance."))
    assert "start one with `ray start --head`" in said
