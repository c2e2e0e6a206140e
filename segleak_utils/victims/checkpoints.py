"""Checkpoints of interrupted trainings: gone on with, or refused if they are another run's."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from segleak_utils.victims.asking import device_of


def resume(checkpoint: Path, identity: str, model: nn.Module, **others: object) -> dict | None:
    """Load model, optimiser and so on from a checkpoint; return it, None if it is another run's.

    `others` are stored under their names. Raises ValueError for a damaged file.
    """
    try:
        state = torch.load(checkpoint, weights_only=True, map_location=device_of(model))
        if state["identity"] != identity:
            return None  # start afresh rather than mix the two
        for name, part in {"model": model, **others}.items():
            part.load_state_dict(state[name])
    except Exception as error:  # torch raises many types here; each means an unusable file
        raise ValueError(
            f"{checkpoint} cannot be read ({type(error).__name__}); delete it to start afresh"
        ) from error
    return state
