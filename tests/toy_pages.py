"""The slider of a notebook on its own: its cells as they are, over a made-up experiment.

Cells tagged ``slider`` are all that a slider needs of its notebook; what the networks would have
said is drawn here, so that a slider can be moved within seconds.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
COMMON = """
from types import SimpleNamespace
import numpy as np, torch
from segleak_utils import data, figures, metrics, representations, victims
rng, n = np.random.default_rng(0), 120
flags = np.arange(n) < 40
"""
SCORES = """
shown = SimpleNamespace(member=flags)
scores = -rng.gamma(4, 0.03, n) + 0.02 * flags
threshold = -0.1
"""
CALIBRATION = """
images = rng.integers(0, 256, (n, 3, 32, 64), dtype=np.uint8)
masks = rng.integers(0, 4, (n, 32, 64), dtype=np.uint8)
masks[:, 0] = data.VOID
scenes = data.Scenes.from_arrays(images, masks, [f"s{k}" for k in range(n)], data.CLASSES[:4])
groups = {"members": scenes.subset(range(20)), "non-members": scenes.subset(range(20, 40))}
victim, size = SimpleNamespace(model=lambda images: 9 * images[:, [0, 1, 2, 1]]), 20
"""
MAPS = """
from itertools import pairwise
from segleak_utils.studies import labelling
masks = torch.zeros(n, 32, 64, dtype=torch.uint8)
masks[:, :, 30:], masks[:, 20:], masks[:3, :5] = 1, 2, data.VOID
masks[5, 10, 10] = 3  # of this class too few scenes have a pixel
less = 1 - 0.1 * flags[:, None, None, None]
losses = torch.from_numpy(rng.exponential(0.5, (n, 1, 32, 64)) * less)
shown = SimpleNamespace(member=flags, masks=masks, loss_maps=losses.half(), n_classes=4)
shown.loss_maps[masks[:, None] == data.VOID] = 0
index, clear_output, ring_share = 0, lambda: None, np.full(5, 0.2)
labelling.mislabelled, plan, victim = lambda plan, victim: None, None, None
member = SimpleNamespace(mask=masks[0].long(), loss=losses[0, 0].float())
"""
PATCHES = """
from segleak_utils import attacks
from segleak_utils.studies import sentences as words
sizes, counts, shadows = [8, 16, 24, 32], [1, 2, 3, 4, 6], [None, SimpleNamespace(name="shadow-1")]
p = SimpleNamespace(patch=24, n_patches=2, seed=0)
rehearsal = SimpleNamespace(member=flags)
singles = {k: rng.normal(0, 1, (n, 6)) + k / 64 * flags[:, None] for k in sizes}
seen_loss, draw = torch.from_numpy(rng.exponential(0.5, (32, 64))), torch.Generator()
spots = {k: (attacks.patch_corners(1, 6, (32, 64), k, draw)[0], singles[k][0]) for k in sizes}
"""
ACCUSED = """
from segleak_utils.attacks.contests import GLOBAL, LOGISTIC, patch_attack
flags = np.arange(1400) < 300
made_up = {GLOBAL: 0.5, LOGISTIC: 1, patch_attack("loss map + label"): 3}


class Contest(dict):
    member = flags


contest = Contest({
    name: SimpleNamespace(scores=rng.normal(0, 1, 1400) + by * flags)
    for name, by in made_up.items()
})
"""
REFERENCES = """
from segleak_utils.attacks import references
from segleak_utils.studies import risk
n = 400  # half of them non-members: enough for 1 %
p, plan, pulls = SimpleNamespace(seed=0, n_boot=200), None, [1.0]
difference = lambda own, theirs: theirs.mean(0) - own
lira = lambda own, theirs: np.log(theirs).mean(0) - np.log(own)
rmia = lambda own, theirs, a: -a * own - np.log(np.exp(-theirs).mean(0))
inside = risk.inside(12, n)
losses = rng.gamma(9, 0.05, n) * rng.gamma(90, 1 / 90, (12, n)) * (1 - 0.1 * inside)
halves = SimpleNamespace(inside=inside, losses=losses[:, None, :, None])
risk.collect = lambda plan: halves
"""
PRELUDES = {
    "00_start_here": COMMON + SCORES,
    "01_victim_inference": COMMON + CALIBRATION,
    "02_structured_loss_map": COMMON + MAPS,
    "03_attack_training": COMMON + PATCHES,
    "05_roc_analysis": COMMON + ACCUSED,
    "06_beyond_the_paper": COMMON + REFERENCES,
}


STANDS_IN = (("studies.labelling", "mislabelled"), ("studies.risk", "collect"))  # what preludes set


def slider_of(name: str) -> NotebookNode:
    """A notebook with the slider's cells of another one, and what they need before them."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    own = [cell for cell in notebook.cells if "slider" in cell.metadata.get("tags", [])]
    cells = [new_code_cell(PRELUDES[name]), *map(_plain, own)]
    return new_notebook(cells=cells, metadata=notebook.metadata)  # which has its kernel


def _plain(cell: NotebookNode) -> NotebookNode:
    return new_code_cell(cell.source)
