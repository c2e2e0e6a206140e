"""What two processes do, for victims/test_street.py: ``launch(2, "two_processes", [FOLDER])``.

Each process leaves what it found in FOLDER; it is read, and judged, by the test.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from segleak_utils.data import VOID, Scenes
from segleak_utils.victims import street
from segleak_utils.victims.processes import is_first, processes
from segleak_utils.victims.street import StreetRecipe, train_street_victim

NAMES = ("road", "car", "sky")
SMALL = StreetRecipe(
    encoder="resnet18",
    decoder_channels=8,
    norm="group",
    n_classes=3,
    epochs=2,
    batch=4,
    crop=(32, 64),
    workers=0,
)
SEED = 3


def scenes_of(n: int = 8, seed: int = 0, height: int = 32, width: int = 64) -> Scenes:
    """Images whose brightness encodes the mask, from hardly void to almost wholly void."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 3, (n, 1 + height // 8, 1 + width // 8), dtype=np.uint8)
    masks = masks.repeat(8, 1).repeat(8, 2)[:, :height, :width].copy()
    images = np.repeat((40 + 80 * masks)[:, None], 3, 1).astype(np.uint8)
    for i, mask in enumerate(masks):
        mask[: (i * height) // n] = VOID
    return Scenes.from_arrays(images, masks, [f"s{seed}-{i}" for i in range(n)], NAMES)


def gap(ours: dict, theirs: dict) -> float:
    """Largest difference of two state dicts with the same names."""
    assert ours.keys() == theirs.keys()
    return max((ours[k].double() - theirs[k].double()).abs().max().item() for k in ours)


def interrupted_at(call: int):
    """The loss, which Ctrl-C strikes at its n-th call."""
    calls, whole = [], street.global_loss

    def loss(*args):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return whole(*args)

    return loss


def naive_loss(logits, masks):
    """Each process's own mean: what must not be taken."""
    return F.cross_entropy(logits, masks, ignore_index=VOID)


def main(folder: Path) -> None:
    found, members = {"first": is_first()}, scenes_of()
    arguments = {"seed": SEED, "progress": None}
    model, found["history"] = train_street_victim(SMALL, members, **arguments)
    weights = model.state_dict()

    whole = street.global_loss
    street.global_loss = interrupted_at(4)
    try:
        train_street_victim(SMALL, members, checkpoint=folder / "run.pt", **arguments)
    except KeyboardInterrupt:
        found["stopped_after"] = torch.load(folder / "run.pt", weights_only=True)["run"]["epoch"]
    street.global_loss = whole
    model, history = train_street_victim(SMALL, members, checkpoint=folder / "run.pt", **arguments)
    found["resumed"] = gap(model.state_dict(), weights), history == found["history"]

    street.global_loss = naive_loss
    found["naive"] = gap(train_street_victim(SMALL, members, **arguments)[0].state_dict(), weights)
    street.global_loss = whole

    try:
        train_street_victim(SMALL.model_copy(update={"batch": 5}), members, **arguments)
    except ValueError as error:
        found["odd"] = str(error)
    # batch norms, and stages that the default pspnet does not use
    recipe = SMALL.model_copy(update={"arch": "pspnet", "norm": "batch", "epochs": 1})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train_street_victim(recipe, members, **arguments)
    found["warnings"] = [str(w.message) for w in caught if w.category is UserWarning]
    rank = torch.distributed.get_rank()
    torch.save(weights, folder / f"weights{rank}.pt")
    (folder / f"found{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with processes():
        main(Path(sys.argv[1]))
    assert not torch.distributed.is_initialized()
