"""Data files of somebody else are data: no pickles, nothing huge."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamoe_search.data import load_data
from dynamoe_search.errors import DataError
from dynamoe_search.specs import DataSection
from tests.security.bombs import Bomb


@pytest.mark.parametrize("part", ["x", "y"])
def test_arrays_of_objects_are_not_unpickled(part: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "data.npz"
    arrays: dict[str, Any] = {"x": np.zeros((64, 4, 4)), "y": np.arange(64) % 2}
    arrays[part] = np.array([Bomb(canary)] * 64, dtype=object)
    np.savez(path, **arrays, allow_pickle=True)
    with pytest.raises(DataError):
        load_data(DataSection(name="npz", path=str(path)))
    assert not canary.exists()


def test_a_pickle_called_npz_is_refused(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "data.npz"
    path.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(DataError):
        load_data(DataSection(name="npz", path=str(path)))
    assert not canary.exists()


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 64, 64)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("y.npy", header.getvalue())
    with pytest.raises(DataError):
        load_data(DataSection(name="npz", path=str(path)))
