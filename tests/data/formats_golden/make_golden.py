"""Writes the npy and npz files that tests/data/formats_npz_test.cc reads: numpy's own output. Run with Debian's python3-numpy."""
import os
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    np.savez(os.path.join(HERE, "numpy_stored.npz"), arr_0=images, mu=np.linspace(-1, 1, 5), n=np.array(7, dtype=np.int64))
    np.savez_compressed(os.path.join(HERE, "numpy_deflated.npz"), arr_0=np.tile(images, (200, 3, 4, 1)),
                        half=np.array([1, 0.5, -2], dtype=np.float16))
    np.save(os.path.join(HERE, "numpy.npy"), np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32))
    # What must be refused: objects (pickles), big-endian, Fortran order, records.
    np.savez(os.path.join(HERE, "numpy_refused.npz"), objects=np.array([{}, "x"], dtype=object),
             big_endian=np.array([1, 2], dtype=">f4"), fortran=np.asfortranarray(np.ones((2, 3))),
             records=np.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")]))


if __name__ == "__main__":
    sys.exit(main())
