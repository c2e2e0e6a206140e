"""Attacks on a row of numbers an image: global loss, per-class regressions, the blind baseline.

The bars that a patch attack has to pass. Throughout, a higher score means "member".
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from segleak_utils import representations
from segleak_utils.attacks.outputs import Outputs
from segleak_utils.checks import numbers
from segleak_utils.data import Scenes

FOLDS = 5  # of the shadows' images, by which a penalty is chosen


def global_loss_scores(shown: Outputs) -> np.ndarray:
    """Minus the mean loss over the labelled pixels (Yeom et al. 2018), float [N].

    >>> posteriors = torch.tensor([[[[0.5, 0.25]], [[0.5, 0.75]]]])
    >>> shown = Outputs.of(posteriors, torch.tensor([[[0, 1]]]), np.array([True]))
    >>> global_loss_scores(shown).round(2)  # minus the mean of -log .5 and -log .75
    array([-0.49], dtype=float32)
    """
    losses = [
        representations.global_loss(shown.loss_maps[i : i + 64].float(), shown.masks[i : i + 64])
        for i in range(0, len(shown), 64)
    ]
    return -torch.cat(losses).numpy()


def class_features(shown: Outputs) -> np.ndarray:
    """Mean loss of each class (0 where absent), its sum, and the class shares: float [N,3C].

    The sum is mean times share, what the class adds to the mean of the image. A linear model
    cannot multiply the two, and without it could not even rebuild the global loss.

    >>> posteriors = torch.tensor([[[[0.5, 0.5]], [[0.5, 0.5]]]])
    >>> shown = Outputs.of(posteriors, torch.tensor([[[0, 0]]]), np.array([True]))
    >>> class_features(shown).round(2)  # two mean losses, these times the shares, two shares
    array([[0.69, 0.  , 0.69, 0.  , 1.  , 0.  ]])
    """
    parts = []
    for i in range(0, len(shown), 64):
        masks = shown.masks[i : i + 64]
        loss = representations.class_losses(
            shown.loss_maps[i : i + 64].float(), masks, shown.n_classes
        ).nan_to_num(0.0)
        shares = representations.class_shares(masks, shown.n_classes, check=False).to(loss.dtype)
        parts.append(torch.cat([loss, loss * shares, shares], 1))
    return torch.cat(parts).double().numpy()


def blind_features(scenes: Scenes) -> np.ndarray:
    """What can be known of an image without any victim: float [N,C+7].

    Class shares, mean and deviation of each colour, and the mean gradient. If members can be told
    from non-members by these, the two differ by themselves.

    >>> from segleak_utils.data import Scenes
    >>> grey, masks = np.full((1, 3, 1, 2), 51, np.uint8), np.array([[[0, 1]]], np.uint8)
    >>> found = blind_features(Scenes.from_arrays(grey, masks, ["a"], ["road", "car"]))
    >>> found.round(2)  # two shares, three means, three deviations, the gradient
    array([[0.5, 0.5, 0.2, 0.2, 0.2, 0. , 0. , 0. , 0. ]])
    """
    parts = []
    pixels = scenes.shape[0] * scenes.shape[1]
    for images, masks in scenes.batches(max(1, 64 * 128 * 256 // pixels)):  # bounded memory
        shares = representations.class_shares(masks, scenes.n_classes)
        gradient = images.diff(dim=-1).abs().mean((1, 2, 3))[:, None]
        colours = [images.mean((2, 3)), images.std((2, 3)), gradient]
        parts.append(torch.cat([shares.float(), *colours], 1))
    return torch.cat(parts).double().numpy()


def logistic_attack(features: np.ndarray, member: np.ndarray) -> Pipeline:
    """Logistic regression on per-image features of shadows; its penalty chosen on shadows too.

    features: [N,K]; member: bool [N]. Score others by ``model.decision_function(features)``.
    ValueError for features that are not finite numbers [N,K], and less than `FOLDS` of a kind.

    >>> features = np.linspace(-1, 1, 20)[:, None]
    >>> model = logistic_attack(features, features[:, 0] > 0)
    >>> bool((model.decision_function(features) > 0).tolist() == (features[:, 0] > 0).tolist())
    True
    """
    features = numbers.finite(features, "features", "[n, k]")
    member = numbers.labels(member, len(features), of="features")
    kinds = int(member.sum()), int((~member).sum())
    if min(kinds) < FOLDS or not features.shape[1]:
        raise ValueError(
            f"{kinds[0]} members and {kinds[1]} non-members of {features.shape[1]} features; "
            f"expected at least {FOLDS} of each, to choose the penalty by, and one feature"
        )
    model = LogisticRegressionCV(
        Cs=np.logspace(-3, 2, 6),
        l1_ratios=(0.0,),
        cv=FOLDS,
        scoring=_area,
        max_iter=2000,
        use_legacy_attributes=False,
    )
    return make_pipeline(StandardScaler(), model).fit(features, member)


def _area(model: LogisticRegressionCV, features: np.ndarray, member: np.ndarray) -> float:
    """The AUC, as scikit-learn's ``"roc_auc"``, without its checks: it is asked 30 times a fit."""
    ranks, inside = rankdata(model.decision_function(features)), member > 0
    m, n = inside.sum(), (~inside).sum()
    return (ranks[inside].sum() - m * (m + 1) / 2) / (m * n)


class LinearAttack(nn.Module):
    """A `logistic_attack` as four tensors, to be stored beside the patch attackers."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        n_features = numbers.count(n_features, "n_features", 1)
        for name in ("mean", "scale", "weight"):
            self.register_buffer(name, torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(1, dtype=torch.float64))

    @classmethod
    def of(cls, fitted: Pipeline) -> LinearAttack:
        scaler, model = fitted.steps[0][1], fitted.steps[1][1]
        attack = cls(len(scaler.mean_))
        values = (scaler.mean_, scaler.scale_, model.coef_[0], model.intercept_)
        for name, value in zip(("mean", "scale", "weight", "bias"), values, strict=True):
            getattr(attack, name).copy_(torch.as_tensor(value))
        return attack

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Membership scores float64 [N] of features [N,K]; ValueError for another K, or NaN."""
        features = numbers.finite(features, "features", "[n, k]")
        if features.shape[1] != len(self.mean):
            raise ValueError(
                f"features are {list(features.shape)}; expected [N, {len(self.mean)}], those that "
                "the attack was fitted on"
            )
        scaled = (torch.from_numpy(features) - self.mean) / self.scale
        return (scaled @ self.weight + self.bias).numpy()
