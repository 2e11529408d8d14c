"""Statistics of the points in a file by NumPy, on one thread: what benches/voxel.rs is compared with.

usage: voxel_numpy.py FILE NAME — FILE holds x, y, z (mm) and values as little-endian float64, one after the other.
"""

import os
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np

EDGE, VOXEL_MM, BATCH, RUNS = 256, 0.1, 4096 * 16, 3


def indices(x, y, z):
    i, j, k = ((np.rint(axis * 1e9).astype(np.int64) // round(VOXEL_MM * 1e9)).clip(0, EDGE - 1) for axis in (x, y, z))
    return (k * EDGE + j) * EDGE + i


def measure(name, points, run):
    rates = []
    for _ in range(RUNS):
        start = time.process_time()
        run()
        rates.append(points / (time.process_time() - start) / 1e6)
    print(f"{name:44} {sorted(rates)[RUNS // 2]:8.1f} M points/s", flush=True)


def main(path, name):
    x, y, z, value = np.fromfile(path).reshape(4, -1)
    points, cells = len(x), EDGE**3
    flat = indices(x, y, z)
    low = np.full(cells, np.inf)
    measure(f"{name}: NumPy bincount, indices given", points, lambda: np.bincount(flat, weights=value, minlength=cells))
    measure(f"{name}: NumPy minimum.at, indices given", points, lambda: np.minimum.at(low, flat, value))

    def all_statistics():
        at = indices(x, y, z)
        np.bincount(at, minlength=cells)
        np.bincount(at, weights=value, minlength=cells)
        np.bincount(at, weights=value * value, minlength=cells)
        np.minimum.at(np.full(cells, np.inf), at, value)
        np.maximum.at(np.full(cells, -np.inf), at, value)

    measure(f"{name}: NumPy, the same five statistics", points, all_statistics)


if __name__ == "__main__":
    main(*sys.argv[1:])
