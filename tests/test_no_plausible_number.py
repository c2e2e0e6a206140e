"""Bad input never gives a plausible number: each argument of the core, spoilt in all known ways.

Each call is right; then one of its arguments is spoilt, in a random place, by each fault that its
kind can have. A fault is refused by a ValueError that says something; anything else is a failure:
a result, however it looks, or an error that comes from somewhere inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from segleak_utils import attacks, data, defenses, metrics, representations, victims
from segleak_utils.attacks import calibration, evidence, online, peers, references, regressions
from segleak_utils.metrics import Interval
from segleak_utils.victims import accountant

ROUNDS = 3  # each fault in as many places
N, C, H, W = 24, 3, 6, 10
Rng = np.random.Generator


def at(array, rng: Rng, value):
    """A copy with one random entry replaced."""
    if isinstance(array, torch.Tensor):
        out = array.clone()
        out.view(-1)[int(rng.integers(out.numel()))] = value
        return out
    out = np.array(array, copy=True)
    out.reshape(-1)[rng.integers(out.size)] = value
    return out


# ---- faults, by the kind of an argument ----------------------------------------------------------

SCORES = {
    "NaN": lambda x, r: at(x, r, np.nan),
    "infinite": lambda x, r: at(x, r, np.inf),
    "minus infinity": lambda x, r: at(x, r, -np.inf),
    "complex": lambda x, r: x + 0j,
    "text": lambda x, r: x.astype(str),
    "objects": lambda x, r: x.astype(object),
    "booleans": lambda x, r: x > 0,
    "one short": lambda x, r: np.delete(x, r.integers(len(x)), axis=-1),
    "one more": lambda x, r: np.concatenate([x, x[..., :1]], -1),
    "another axis": lambda x, r: x[None],
    "masked": lambda x, r: np.ma.array(x, mask=at(np.zeros(x.shape, bool), r, True)),
    "empty": lambda x, r: x[..., :0],
    "a number": lambda x, r: 0.5,
    "nothing": lambda x, r: None,
}
SCALED = SCORES | {"above 2^53": lambda x, r: 2**53 + r.integers(1, 99, x.shape)}
MEMBER = {
    "0 and 1": lambda x, r: x.astype(int),
    "1 and 2": lambda x, r: x + 1,
    "-1 and 1": lambda x, r: np.where(x, 1, -1),
    "floats": lambda x, r: x.astype(float),
    "text": lambda x, r: np.where(x, "member", "other"),
    "objects": lambda x, r: x.astype(object),
    "positions": lambda x, r: np.flatnonzero(x),
    "one short": lambda x, r: np.delete(x, r.integers(len(x))),
    "one more": lambda x, r: np.append(x, True),
    "another axis": lambda x, r: x[None],
    "masked": lambda x, r: np.ma.array(x, mask=at(np.zeros(x.shape, bool), r, True)),
    "nothing": lambda x, r: None,
}
BOTH = MEMBER | {"all in": lambda x, r: x | True, "all out": lambda x, r: x & False}
COUNT = {
    "negative": lambda x, r: -int(r.integers(1, 9)),
    "half": lambda x, r: x + 0.5,
    "a float": lambda x, r: float(x),
    "NaN": lambda x, r: np.nan,
    "infinite": lambda x, r: np.inf,
    "a boolean": lambda x, r: True,
    "text": lambda x, r: str(x),
    "nothing": lambda x, r: None,
}
NUMBER = {
    "NaN": lambda x, r: np.nan,
    "complex": lambda x, r: x + 1j,
    "text": lambda x, r: "a half",
    "nothing": lambda x, r: None,
    "a list": lambda x, r: [x, x],
}
FINITE = NUMBER | {"infinite": lambda x, r: np.inf, "minus infinity": lambda x, r: -np.inf}
SHARE = FINITE | {
    "negative": lambda x, r: -r.uniform(0.01, 2),
    "above one": lambda x, r: r.uniform(1.01, 99),
}
POSITIVE = FINITE | {"negative": lambda x, r: -r.uniform(0.01, 2)}
TENSOR = {
    "a NumPy array": lambda x, r: x.numpy(),
    "an axis less": lambda x, r: x[0],
    "an axis more": lambda x, r: x[None],
    "empty": lambda x, r: x[:0],
    "complex": lambda x, r: x + 0j,
    "nothing": lambda x, r: None,
}
POSTERIOR = TENSOR | {
    "NaN": lambda x, r: at(x, r, torch.nan),
    "infinite": lambda x, r: at(x, r, torch.inf),
    "negative": lambda x, r: at(x, r, -0.1),
    "twice": lambda x, r: 2 * x,
    "one pixel off": lambda x, r: at(x, r, 1.5),
    "logits": lambda x, r: 3 * x.log(),
    "over the wrong axis": lambda x, r: x.log().softmax(2),
    "sigmoids": lambda x, r: x.logit().sigmoid() * 1.2,
    "integers": lambda x, r: x.round().long(),
    "booleans": lambda x, r: x > 0.5,
    "one class": lambda x, r: torch.ones_like(x[:, :1]),
    "classes last": lambda x, r: x.movedim(1, -1),
}
MASK = TENSOR | {
    "floats": lambda x, r: x.float(),
    "booleans": lambda x, r: x > 0,
    "a foreign label": lambda x, r: at(x, r, C + int(r.integers(0, 99))),
    "a negative label": lambda x, r: at(x, r, -1),
    "foreign bytes": lambda x, r: at(x.byte(), r, 254),
}
ON_GRID = MASK | {
    "transposed": lambda x, r: x.mT,
    "one short": lambda x, r: x[1:],
    "another size": lambda x, r: x[..., 1:],
}
LOSSES = TENSOR | {
    "NaN": lambda x, r: at(x, r, torch.nan),
    "infinite": lambda x, r: at(x, r, torch.inf),
    "negative": lambda x, r: at(x, r, -0.1),
    "integers": lambda x, r: x.round().long(),
    "two channels": lambda x, r: x.repeat(1, 2, 1, 1),
    "another size": lambda x, r: x[..., 1:],
}
LOGITS = TENSOR | {
    "NaN": lambda x, r: at(x, r, torch.nan),
    "infinite": lambda x, r: at(x, r, torch.inf),
    "integers": lambda x, r: x.round().long(),
    "another size": lambda x, r: x[..., 1:],
}
ANSWER = {
    "NaN": lambda x, r: at(x, r, torch.nan),
    "infinite": lambda x, r: at(x, r, -torch.inf),
    "probabilities": lambda x, r: x.softmax(1),
    "sigmoids": lambda x, r: x.sigmoid(),
    "one-hots": lambda x, r: (x == x.amax(1, keepdim=True)).float(),
    "integers": lambda x, r: x.round().long(),
    "booleans": lambda x, r: x > 0,
    "complex": lambda x, r: x + 0j,
    "one class": lambda x, r: x[:, :1],
    "classes last": lambda x, r: x.movedim(1, -1),
    "transposed": lambda x, r: x.mT,
    "another size": lambda x, r: x[..., :-1, :-3],
    "one answer an image": lambda x, r: x.mean((2, 3)),
    "one short": lambda x, r: x[1:],
    "an axis less": lambda x, r: x[0],
    "a list": lambda x, r: list(x),
    "nothing": lambda x, r: None,
}
IMAGES = TENSOR | {
    "NaN": lambda x, r: at(x, r, torch.nan),
    "bytes": lambda x, r: (x * 255).byte(),
    "0 to 255": lambda x, r: x * 255,
    "normalised": lambda x, r: (x - 0.45) / 0.22,
    "one pixel": lambda x, r: at(x, r, 1.5),
}


# ---- right calls ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A function, what it takes (made of a generator), and the faults of the arguments."""

    name: str
    function: Callable
    given: Callable[[Rng], dict]
    faults: dict[str, dict[str, Callable]]


CALLS: list[Call] = []


def call(function: Callable, given: Callable[[Rng], dict], name: str = "", **faults) -> None:
    CALLS.append(Call(name or function.__qualname__, function, given, faults))


def scored(r: Rng) -> dict:
    member = r.permutation(np.arange(N) < N // 2)
    return {"scores": r.normal(size=N) + member, "member": member}


def said(r: Rng) -> dict:
    g = torch.Generator().manual_seed(int(r.integers(2**31)))
    logits = torch.randn(N, C, H, W, generator=g)
    mask = torch.randint(0, C, (N, H, W), generator=g)
    mask[:, 0, :2] = 255
    return {"logits": logits, "posterior": logits.softmax(1), "mask": mask}


def of(names: str, **fixed) -> Callable[[Rng], dict]:
    """Some of what `scored` and `said` make, and fixed values."""

    def given(r: Rng) -> dict:
        there = scored(r) | said(r)
        there["loss_map"] = representations.structured_loss_map(there["posterior"], there["mask"])
        return {name: there[name] for name in names.split()} | fixed

    return given


ABOUT = {"scores": SCALED, "member": BOTH}
for function in (metrics.roc, metrics.best_threshold):
    call(function, of("scores member"), **ABOUT)
call(metrics.auc, of("scores member", level=0.9), **ABOUT, level=SHARE)
call(
    metrics.auc,
    of("scores member", method="bootstrap", seed=1, n_boot=200),
    "auc, bootstrap",
    n_boot=COUNT,
    seed=COUNT,
    method={"misspelt": lambda x, r: "boot", "nothing": lambda x, r: None},
)
call(metrics.tpr_at_fpr, of("scores member", fpr=0.2), **ABOUT, fpr=SHARE)
for function in (metrics.accuracy_at, metrics.balanced_accuracy_at):
    given = of("scores member", threshold=0.0, level=0.9)
    call(function, given, **ABOUT, threshold=NUMBER, level=SHARE)
call(metrics.tpr_interval, of("scores member", fpr=0.2, seed=0, n_boot=200), **ABOUT, fpr=SHARE,
     seed=COUNT, n_boot=COUNT)  # fmt: skip
call(
    metrics.grouped_auc,
    lambda r: (s := scored(r)) | {"groups": [f"g{i % 7}" for i in range(len(s["scores"]))]},
    **ABOUT,
    groups={
        "one short": lambda x, r: x[:-1],
        "empty": lambda x, r: ["", *x[1:]],
        "none": lambda x, r: [None, *x[1:]],
        "of one": lambda x, r: ["a"] * len(x),
    },
)
call(
    metrics.precision_at,
    lambda r: {"tpr": 0.3, "fpr": 0.1, "prior": 0.5},
    tpr=SHARE,
    fpr=SHARE,
    prior=SHARE,
)
call(
    metrics.precision_of,
    lambda r: {"rate": metrics.Interval(0.3, 0.2, 0.4, 40, 90), "fpr": 0.1, "prior": 0.5},
    fpr=SHARE,
    prior=SHARE,
)
call(
    metrics.mean_difference,
    lambda r: {"values": (s := scored(r))["scores"], "member": s["member"]},
    values=SCALED,
    member=BOTH,
)
call(
    metrics.share_of_difference,
    lambda r: {
        "part": (s := scored(r))["scores"],
        "whole": s["scores"] + 99 * s["member"],
        "member": s["member"],
    },
    part=SCALED,
    whole=SCALED,
    member=BOTH,
)
call(
    metrics.paired_auc_difference,
    lambda r: {
        "scores_a": (s := scored(r))["scores"],
        "scores_b": -s["scores"],
        "member": s["member"],
        "seed": 0,
        "n_boot": 200,
    },
    scores_a=SCALED,
    scores_b=SCALED,
    member=BOTH,
    seed=COUNT,
    n_boot=COUNT,
)
call(
    metrics.paired_tpr_difference,
    lambda r: {
        "scores_a": (s := scored(r))["scores"],
        "scores_b": -s["scores"],
        "member": s["member"],
        "fpr": 0.2,
        "seed": 0,
        "n_boot": 200,
    },
    scores_a=SCALED,
    scores_b=SCALED,
    member=BOTH,
    fpr=SHARE,
    seed=COUNT,
    n_boot=COUNT,
)
call(metrics.precisions, lambda r: {"tpr": 0.3, "fpr": 0.1}, tpr=SHARE, fpr=SHARE)
call(
    metrics.audited,
    of("scores member", delta=1e-4, seed=0),
    **ABOUT,
    delta=SHARE,
    seed=COUNT,
)
call(
    metrics.bound_at,
    of("scores member", threshold=0.0, delta=1e-4),
    **ABOUT,
    threshold=NUMBER,
    delta=SHARE,
)
call(
    metrics.epsilon_bound,
    lambda r: {"hits": 9, "n_members": 20, "alarms": 2, "n_nonmembers": 30, "delta": 1e-4},
    hits=COUNT,
    n_members=COUNT,
    alarms=COUNT,
    n_nonmembers=COUNT,
    delta=SHARE,
)
COUNTED = {"hits": 9, "n_members": 20, "alarms": 2, "n_nonmembers": 30, "delta": 1e-4}
for function in (metrics.gaussian_bound, metrics.joint_beta_bound):
    call(
        function,
        lambda r: COUNTED | {"level": 0.9},
        hits=COUNT,
        n_members=COUNT,
        alarms=COUNT,
        n_nonmembers=COUNT,
        delta=SHARE,
        level=SHARE,
    )
for function in (metrics.guesses_bound, metrics.one_run_gaussian_bound):
    call(
        function,
        lambda r: {"n": 20, "guesses": 9, "right": 7, "delta": 1e-4},
        n=COUNT,
        guesses=COUNT,
        right=COUNT,
        delta=SHARE,
    )
call(metrics.gaussian_epsilon, lambda r: {"mu": 0.5, "delta": 1e-4}, mu=POSITIVE, delta=SHARE)
call(
    metrics.curve_epsilon,
    lambda r: {"curve": metrics.gaussian_curve(1.0), "delta": 1e-4},
    delta=SHARE,
)
call(metrics.gaussian_mu, lambda r: {"epsilon": 0.5, "delta": 1e-4}, epsilon=POSITIVE, delta=SHARE)
call(
    metrics.one_run_gaussian,
    lambda r: {
        "scores": (s := scored(r))["scores"],
        "included": s["member"],
        "n_guesses": 9,
        "delta": 1e-4,
    },
    scores=SCALED,
    included=BOTH,
    n_guesses=COUNT,
    delta=SHARE,
)
call(
    metrics.one_run,
    lambda r: {
        "scores": (s := scored(r))["scores"],
        "included": s["member"],
        "n_guesses": 9,
        "delta": 1e-4,
        "level": 0.9,
    },
    scores=SCALED,
    included=BOTH,
    n_guesses=COUNT,
    delta=SHARE,
    level=SHARE,
)
call(
    metrics.one_run_p_value,
    lambda r: {"n": 20, "guesses": 9, "right": 7, "epsilon": 1.0, "delta": 1e-4},
    n=COUNT,
    guesses=COUNT,
    right=COUNT,
    epsilon={k: v for k, v in POSITIVE.items() if k != "infinite"},  # all is allowed then
    delta=SHARE,
)
call(
    Interval,
    lambda r: {"value": 0.5, "low": 0.4, "high": 0.6, "n_members": 9, "n_nonmembers": 9},
    value=FINITE | {"outside": lambda x, r: 0.7},
    low=FINITE | {"above": lambda x, r: 0.55},
    high=FINITE | {"below": lambda x, r: 0.45},
    n_members=COUNT,
    n_nonmembers=COUNT,
)

PAIR = {"posterior": POSTERIOR, "mask": ON_GRID}
for function in (
    representations.structured_loss_map,
    representations.concatenation,
    representations.labelled_loss_map,
    representations.dice,
):
    call(function, of("posterior mask"), **PAIR)
call(representations.loss_map_of_logits, of("logits mask"), logits=LOGITS, mask=ON_GRID)
call(representations.class_losses, of("loss_map mask", n_classes=C), loss_map=LOSSES, mask=ON_GRID)
VOID_ONE = {"no label": lambda x, r: torch.where(torch.arange(N).view(-1, 1, 1) == 3, 255, x)}
call(
    lambda loss_map, mask: representations.global_loss(loss_map, mask),
    of("loss_map mask"),
    "global_loss",
    loss_map=LOSSES,
    # of how many classes the labels are is not known here
    mask={k: v for k, v in ON_GRID.items() if "foreign" not in k} | VOID_ONE,
)
for function in (representations.one_hot, representations.class_shares):
    call(function, of("mask", n_classes=C), mask=MASK, n_classes=COUNT)
call(representations.argmax_posterior, of("posterior"), posterior=POSTERIOR)

GENERATOR = torch.Generator()
WHOLE = {k: v for k, v in COUNT.items() if k != "a float"}  # a strength may be 2.0
for function, name, value, faults in (
    (defenses.gaussian_noise, "std", 0.1, POSITIVE),
    (defenses.top_k, "k", 2, WHOLE),
    (defenses.rounding, "digits", 1, WHOLE),
    (defenses.temperature, "t", 2.0, POSITIVE),
):
    extra = {"generator": GENERATOR} if name == "std" else {}
    given = of("posterior", **{name: value}, **extra)
    call(function, given, **{"posterior": POSTERIOR, name: faults})


def outputs(r: Rng) -> attacks.Outputs:
    there = said(r)
    return attacks.Outputs.of(there["posterior"], there["mask"], scored(r)["member"])


call(
    attacks.Outputs.of,
    lambda r: (
        {"posteriors": (s := said(r))["posterior"], "masks": s["mask"]}
        | {"member": scored(r)["member"]}
    ),
    posteriors=POSTERIOR,
    masks=ON_GRID,
    member=MEMBER,
)
FEATURES = {
    key: SCORES[key]
    for key in ("NaN", "infinite", "complex", "text", "objects", "masked", "a number", "nothing")
} | {"one short": lambda x, r: x[1:], "one axis": lambda x, r: x[:, 0]}
call(
    regressions.logistic_attack,
    lambda r: {"features": r.normal(size=(N, 2)), "member": scored(r)["member"]},
    features=FEATURES,
    member=BOTH,
)
CONFIDENCES = {key: SCORES[key] for key in ("NaN", "infinite", "minus infinity", "one short",
               "another axis", "masked", "empty", "complex", "text", "nothing")}  # fmt: skip
LOGS = CONFIDENCES | {"a loss": lambda x, r: -x}


def logs(r: Rng, **more) -> dict:
    return {"target": -r.random(N), "out": -r.random((3, N))} | more


call(calibration.lira_offline, logs, target=CONFIDENCES, out=CONFIDENCES)
call(
    calibration.lira_online,
    lambda r: logs(r, inside=-r.random((3, N))),
    target=CONFIDENCES,
    inside=CONFIDENCES,
    out=CONFIDENCES,
)
call(calibration.likelihood_ratio, lambda r: logs(r, a=0.5), target=LOGS, out=LOGS, a=SHARE)
call(
    calibration.rmia,
    lambda r: logs(r, target_population=-r.random(9), out_population=-r.random((3, 9)), gamma=1.0),
    target=LOGS,
    out=LOGS,
    target_population=LOGS,
    out_population=LOGS,
    gamma=POSITIVE,
)
call(
    calibration.confidence,
    lambda r: {"loss": r.random(N)},
    loss={key: SCORES[key] for key in ("NaN", "infinite", "complex", "text", "masked", "nothing")}
    | {"negative": lambda x, r: at(x, r, -0.1)},
)


def inside(r: Rng) -> dict:
    return {"target": r.normal(size=N), "theirs": r.normal(size=(4, N)),
            "inside": online.halves(N, 4, seed=0)}  # fmt: skip


call(
    online.online_attacks,
    inside,
    target=CONFIDENCES,
    theirs=CONFIDENCES,
    inside={
        "0 and 1": lambda x, r: x.astype(int),
        "uneven": lambda x, r: x ^ at(np.zeros(x.shape, bool), r, True),
        "one short": lambda x, r: x[:, 1:],
        "nothing": lambda x, r: None,
    },
)
call(evidence.found, of("scores member", fpr=0.2), **ABOUT, fpr=SHARE)
call(
    evidence.agreement,
    lambda r: {"a": (s := scored(r))["scores"], "b": -s["scores"], "member": s["member"],
               "fpr": 0.2},
    a=SCALED,
    b=SCALED,
    member=BOTH,
    fpr=SHARE,
)  # fmt: skip


def case(r: Rng) -> dict:
    shown = outputs(r)
    theirs = attacks.Outputs.of(said(r)["posterior"], shown.masks, shown.member)
    return {"shown": shown, "references": [theirs]}


call(
    references.case,
    case,
    references={
        "none": lambda x, r: [],
        "of other images": lambda x, r: [outputs(r)],
        "in another order": lambda x, r: [x[0].subset(np.roll(np.arange(N), 1))],
        "one short": lambda x, r: [x[0].subset(np.arange(N - 1))],
    },
)
LABELS = {"floats": lambda x, r: x.float(), "booleans": lambda x, r: x > 0,
          "foreign": lambda x, r: at(x, r, C), "negative": lambda x, r: at(x, r, -1),
          "one short": lambda x, r: x[1:], "nothing": lambda x, r: None}  # fmt: skip
call(
    victims.confusion_matrix,
    lambda r: {"predicted": (s := said(r))["logits"].argmax(1),
               "masks": torch.where(s["mask"] == 255, 0, s["mask"]), "n_classes": C},
    predicted=LABELS,
    masks=LABELS,
    n_classes=COUNT,
)  # fmt: skip
call(
    victims.iou_of,
    lambda r: {"confusion": torch.from_numpy(r.integers(1, 9, (C, C)))},
    confusion={"negative": lambda x, r: at(x, r, -1), "not square": lambda x, r: x[1:],
               "floats": lambda x, r: x / 7, "nothing": lambda x, r: None},
)  # fmt: skip
for function in (victims.logits_of, victims.posteriors, victims.posteriors_at):
    call(
        lambda answer, images, function=function: function(lambda _: answer, images),
        lambda r: {"answer": 3 * said(r)["logits"], "images": torch.rand(N, 3, H, W)},
        function.__name__,
        answer=ANSWER,
        images=IMAGES,
    )
call(
    accountant.epsilon,
    lambda r: (
        {"noise_multiplier": 2.0, "sampling_rate": 0.5, "steps": 4, "delta": 1e-4}
        | {"accountant": "rdp"}
    ),
    noise_multiplier=POSITIVE | {"too little": lambda x, r: 0.01},
    sampling_rate=SHARE | {"zero": lambda x, r: 0},
    steps=COUNT | {"none": lambda x, r: 0},
    delta=SHARE | {"zero": lambda x, r: 0, "a half": lambda x, r: 0.5, "tiny": lambda x, r: 1e-300},
    accountant={"misspelt": lambda x, r: "gdp", "nothing": lambda x, r: None},
)
call(
    accountant.promise,
    lambda r: (
        {"noise_multiplier": 2.0, "clip_norm": 1.0, "sampling_rate": 0.5, "steps": 4}
        | {"delta": 1e-4}
    ),
    noise_multiplier=POSITIVE | {"too little": lambda x, r: 0.01},
    clip_norm=POSITIVE | {"zero": lambda x, r: 0},
    sampling_rate=SHARE | {"zero": lambda x, r: 0},
    steps=COUNT | {"none": lambda x, r: 0},
    delta=SHARE | {"zero": lambda x, r: 0, "a half": lambda x, r: 0.5, "tiny": lambda x, r: 1e-300},
)


def arrays(r: Rng) -> dict:
    return {
        "images": r.integers(0, 256, (4, 3, H, W)).astype(np.uint8),
        "masks": r.integers(0, C, (4, H, W)).astype(np.uint8),
        "ids": list("abcd"),
        "class_names": ["x", "y", "z"],
    }


def read(**given) -> None:
    """Scenes are read when they are asked for; so are their faults found, at the latest."""
    for _ in data.Scenes.from_arrays(**given).batches(2):
        pass


call(
    read,
    arrays,
    "Scenes.from_arrays",
    images={"floats": lambda x, r: x / 255, "wide": lambda x, r: x.astype(np.int64),
            "grey": lambda x, r: x[:, :1], "channels last": lambda x, r: np.moveaxis(x, 1, -1),
            "one short": lambda x, r: x[1:], "transposed": lambda x, r: x.swapaxes(2, 3),
            "one twice": lambda x, r: x[[0, 1, 2, 0]], "nothing": lambda x, r: None},
    masks={"floats": lambda x, r: x / 1.0, "booleans": lambda x, r: x > 0,
           "foreign": lambda x, r: at(x, r, C), "wide": lambda x, r: x.astype(np.int64) - 1,
           "one short": lambda x, r: x[1:], "transposed": lambda x, r: x.swapaxes(1, 2),
           "nothing": lambda x, r: None},
    ids={"twice": lambda x, r: list("aacd"), "one short": lambda x, r: list("abc")},
    class_names={"none": lambda x, r: [], "too few": lambda x, r: ["x"]},
)  # fmt: skip
call(
    lambda indices: data.Scenes.from_arrays(**arrays(np.random.default_rng(0))).subset(indices),
    lambda r: {"indices": np.array([True, False, True, False])},
    "Scenes.subset",
    indices={"one short": lambda x, r: x[1:], "floats": lambda x, r: [0.5, 1.2],
             "beyond": lambda x, r: [0, 9], "text": lambda x, r: ["a"]},
)  # fmt: skip
call(
    peers.dice_attack,
    lambda r: {"scores": r.random(N), "own": r.random(N), "member": scored(r)["member"]},
    own=SCALED,
    member=BOTH,
)


# ---- the trial -----------------------------------------------------------------------------------

TRIALS = [
    pytest.param(one, argument, fault, id=f"{one.name}-{argument}-{fault}")
    for one in CALLS
    for argument, faults in one.faults.items()
    for fault in faults
]


@pytest.mark.parametrize("one", CALLS, ids=lambda one: one.name)
def test_the_call_is_right(one):
    one.function(**one.given(np.random.default_rng(0)))


@pytest.mark.parametrize(("one", "argument", "fault"), TRIALS)
def test_a_fault_is_refused(one, argument, fault):
    for seed in range(ROUNDS):
        r = np.random.default_rng(seed)
        given = one.given(r)
        given[argument] = one.faults[argument][fault](given[argument], r)
        with pytest.raises(ValueError, match=r"[a-z]{4}"):
            found = one.function(**given)
            pytest.fail(f"{one.name} took {argument} with {fault}, and said {found!r}"[:300])


def test_a_thousand_bad_inputs_are_tried():
    assert len(TRIALS) * ROUNDS >= 1000
