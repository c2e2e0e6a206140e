"""Who answers: a network that is asked, or files of what one has answered."""

from __future__ import annotations

from pathlib import Path

from segleak_utils.audit.config import KINDS, Answers, Data, Size
from segleak_utils.audit.models import Model, model_of
from segleak_utils.audit.recorded import Recorded

Network = Model | Recorded


def network(
    told: Answers,
    n_classes: int,
    *,
    model: object | None = None,
    tile: Size | None = None,
    base: Path = Path(),
    data: Data | None = None,
) -> Network:
    """The network that `told` names, or the Python object `model` as `told` describes it.

    data: how masks are stored, for label maps that are stored like them. ValueError where nothing
    answers, or both are given.
    """
    if model is not None and told.kind is not None:
        raise ValueError(
            f"a model was handed over, and answers.{told.kind} is given; leave out one"
        )
    if model is not None or told.kind in ("model", "file"):
        if told.returns is None:
            raise ValueError(
                "answers.returns: say what the model gives, logits, log_probabilities or "
                "probabilities; it is checked then"
            )
        return model_of(told, n_classes, model=model, tile=tile, base=base)
    if told.kind == "posteriors":
        return Recorded(base / told.posteriors, told, n_classes)
    if told.kind == "labels":
        return Recorded(base / told.labels, told, n_classes, labels_only=True, data=data)
    raise ValueError(f"answers: give one of {', '.join(KINDS)}")
