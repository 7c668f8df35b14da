"""scikit-learn's digits: 1,797 real scanned digits of 8 x 8 pixels that travel with scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from distillery.sources import SOURCES, Rows
from distillery.store import fingerprint


@SOURCES.register("digits", kind="image")
def digits() -> Rows:
    """Digits as images, uint8 [8, 8, 1], ten classes (UCI optical recognition of handwritten digits, 1998)."""
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    digest = fingerprint("digits", pixels.tobytes().hex(), bunch.target.tolist())
    return Rows("image", bunch.target.astype(str), digest, read=lambda row: pixels[row], channels=1)
