"""What the annotator got wrong: kept packed, members first, and unknown of photographs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from segleak_utils.studies import Plan, labelling


class Some:
    """Scenes of which only the digest, the size and the number are asked."""

    shape = (5, 7)

    def __init__(self, digest: str, n: int) -> None:
        self.digest, self.n = digest, n

    def __len__(self) -> int:
        return self.n


def test_pixels_are_kept_bit_by_bit_members_first(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path))
    rng, drawn = np.random.default_rng(0), {}

    def again(scenes, *, progress):
        drawn[scenes.digest] = rng.random((len(scenes), 5, 7)) < 0.3
        return drawn[scenes.digest]

    monkeypatch.setattr(labelling.synthstreets, "mislabelled", again)
    network = SimpleNamespace(members=Some("m", 3), nonmembers=Some("n", 2))
    found = [labelling.mislabelled(Plan(progress=False), network) for _ in range(2)]
    for wrong in found:  # the second time from what was kept
        assert wrong.dtype == bool
        np.testing.assert_array_equal(wrong, np.concatenate([drawn["m"], drawn["n"]]))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) < 1000


def test_of_photographs_nobody_knows():
    assert labelling.mislabelled(Plan(examples=Path("anywhere")), SimpleNamespace()) is None
