"""torchvision beside whatever build of torch is installed, in a fresh interpreter."""

import json
import subprocess
import sys

SCRIPT = """
import importlib, json, sys
try:
    importlib.import_module("torchvision")
    is_whole = True
except RuntimeError:
    is_whole = False
from dynamoe_search.data import torchvision_compat as compat
torchvision = compat.import_torchvision()
from torchvision.transforms import v2
print(json.dumps({
    "is_whole": is_whole,
    "num_declared": compat._declare_operations.cache_info().currsize,
    "is_same": compat.import_torchvision() is torchvision is sys.modules["torchvision"],
    "names": [torchvision.datasets.CIFAR10.__name__, v2.RandomCrop.__name__],
}))
"""


def test_import_declares_operations_only_where_they_are_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout)
    assert seen["names"] == ["CIFAR10", "RandomCrop"]
    assert seen["is_same"]
    assert seen["num_declared"] == (0 if seen["is_whole"] else 1)
