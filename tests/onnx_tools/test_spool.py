"""Arrays in temporary files: they come back as they were, and many take few open files."""

from __future__ import annotations

import gc

import ml_dtypes
import numpy as np
import pytest

from onnx_tools import WriteFailed
from onnx_tools.calibration.spool import Spool

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.arange(24, dtype=np.float64).reshape(2, 3, 4).transpose(2, 0, 1),
    np.array([1.5, -2.0], ml_dtypes.bfloat16),
    np.array([True, False, True]),
    np.array(2.5, np.float16),
    np.empty((0, 4), np.float32),
]


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_arrays_come_back(monkeypatch, size):
    monkeypatch.setattr("onnx_tools.calibration.spool._FILE", size)
    spool = Spool()
    for array, read in [(array, spool.keep(array)) for array in ARRAYS * 3]:
        assert (read().dtype, read().shape, read().flags.writeable) == (array.dtype, array.shape, False)
        np.testing.assert_array_equal(read(), array)


def test_many_arrays_share_a_file():
    spool = Spool()
    arrays = [spool.keep(np.full(1000, number, np.float32))() for number in range(500)]
    assert [array[-1] for array in arrays] == list(range(500))
    assert len({id(array.base) for array in arrays}) == 1


def test_files_go_with_what_reads_them(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    read = Spool().keep(ARRAYS[0])
    gc.collect()
    assert [*tmp_path.iterdir()]
    assert read()[1, 2] == 5
    del read
    gc.collect()
    assert not [*tmp_path.iterdir()]


def test_a_full_disk(monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnx_tools.calibration.spool.write_at", full)
    with pytest.raises(WriteFailed, match="the disk is full"):
        Spool().keep(ARRAYS[0])
