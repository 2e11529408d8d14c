"""Opens exported files with NumPy, VTK and Arrow: what people will open them with.

usage: export_check.py DIR — with build.npz, build.vti and build.parquet of the grid that voxel_export.rs makes.
"""

import math
import sys
from pathlib import Path

import numpy
import pyarrow.parquet
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOXML import vtkXMLImageDataReader


def check_npz(path):
    with numpy.load(path) as file:
        mean, count = file["intensity_mean"], file["intensity_count"]
        assert mean.shape == (4, 3, 2) and mean.dtype == numpy.float64, (mean.shape, mean.dtype)
        assert (mean[0, 0, 0], mean[3, 2, 0], mean[1, 1, 1]) == (2.0, 5.0, 7.0), mean
        assert numpy.isnan(mean).sum() == 21 and count.sum() == 4 and count.dtype == numpy.uint32
        assert file["origin"].tolist() == [10.0, -1.0, 0.0] and file["voxel"].tolist() == [0.5, 1.0, 0.04]


def check_vti(path):
    reader = vtkXMLImageDataReader()
    assert reader.CanReadFile(str(path))
    reader.SetFileName(str(path))
    reader.Update()
    image = reader.GetOutput()
    assert image.GetExtent() == (0, 4, 0, 3, 0, 2), image.GetExtent()
    assert image.GetOrigin() == (10.0, -1.0, 0.0) and image.GetSpacing() == (0.5, 1.0, 0.04)
    mean = vtk_to_numpy(image.GetCellData().GetArray("intensity_mean")).reshape(2, 3, 4)
    assert (mean[0, 0, 0], mean[0, 2, 3], mean[1, 1, 1]) == (2.0, 5.0, 7.0), mean
    assert numpy.isnan(mean).sum() == 21
    # The cell at a point in mm is the voxel that holds the point.
    assert image.FindCell([11.9, 1.5, 0.01], None, 0, 0.0, _reference(), [0.0] * 3, [0.0] * 8) == 11
    assert image.GetCellData().GetNumberOfArrays() == 12


def _reference():
    from vtkmodules.vtkCommonCore import reference

    return reference(0)


def check_parquet(path):
    table = pyarrow.parquet.read_table(path)
    rows = table.drop_columns(["last_time"]).to_pylist()
    assert len(rows) == 5, rows
    first = rows[0]
    assert (first["i"], first["signal"], first["count"], first["mean"], first["variance"]) == (0, "intensity", 2, 2.0, 2.0)
    assert rows[1]["variance"] is None and math.isclose(first["z_mm"], 0.02)
    assert str(table.schema.field("last_time").type) == "timestamp[ns, tz=UTC]", table.schema


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    check_npz(directory / "build.npz")
    check_vti(directory / "build.vti")
    check_parquet(directory / "build.parquet")
    print("numpy, vtk and arrow agree")
