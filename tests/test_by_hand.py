"""What the notebooks show as code is what the library does: the same numbers from both."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn
from toy_findings import made_up

from segleak_utils import attacks, metrics
from segleak_utils.attacks import calibration, patches, patchnets
from segleak_utils.attacks.outputs import Outputs
from segleak_utils.attacks.references import RMIA_A
from segleak_utils.audit import gate, risk
from segleak_utils.defenses import Release

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
RNG = np.random.default_rng(0)
C = 4


def shown(name: str) -> dict:
    """The functions that a notebook's cells tagged ``by-hand`` define."""
    names = {"np": np, "torch": torch, "nn": nn, "norm": norm, "attacks": attacks}
    tagged = [
        cell.source
        for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
        if "by-hand" in cell.metadata.get("tags", [])
    ]
    assert tagged, f"{name} shows nothing by hand"
    for source in tagged:
        code = [line for line in source.splitlines() if line.strip()]
        assert len(code) <= 16, f"too long to be read in one look:\n{source}"
        exec(source, names)
    return names


def outputs(n: int = 12) -> Outputs:
    rng = torch.Generator().manual_seed(1)
    posteriors = torch.rand(n, C, 24, 32, generator=rng).softmax(1)
    masks = torch.randint(0, C, (n, 24, 32), generator=rng)
    masks[:, 0] = 255
    return Outputs.of(posteriors, masks, np.arange(n) < n // 2)


def test_the_patch_network_is_the_librarys():
    of = shown("03_attack_training")
    ours, theirs = of["PatchNet"](C), patchnets.PatchNet("loss map + label", C)
    theirs.load_state_dict(ours.state_dict())  # the same weights, by the same names
    maps = outputs().maps("loss map + label", slice(None))
    for net in (ours.train(), theirs.train()):
        net(maps)  # moves what BatchNorm keeps
    assert torch.allclose(ours.eval()(maps), theirs.eval()(maps), atol=1e-6)


def test_an_epoch_of_training_is_the_librarys():
    of, data = shown("03_attack_training"), outputs()
    recipe = attacks.AttackRecipe(representation="loss map + label", patch=16, batch=4, epochs=1)
    images, trained = np.arange(len(data)), []
    for epoch in (of["epoch_of"], None):
        torch.manual_seed(0)
        net = patchnets.PatchNet("loss map + label", C)
        optimiser = torch.optim.AdamW(net.parameters(), recipe.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, total_steps=3)
        parts = (recipe, optimiser, schedule, torch.Generator().manual_seed(5))
        if epoch is None:
            pairs = torch.stack([torch.zeros(len(data)).long(), torch.from_numpy(images)], 1)
            loss = patches._one_epoch(net, [data], pairs, *parts) / 3
        else:
            loss = epoch(net, data, images, *parts)
        trained.append((loss, torch.cat([w.detach().flatten() for w in net.parameters()])))
    assert trained[0][0] == pytest.approx(trained[1][0], abs=1e-5)
    assert torch.allclose(trained[0][1], trained[1][1], atol=1e-4)


def test_the_releases_are_the_librarys():
    of, posterior = shown("04_defenses"), torch.rand(2, C, 5, 6).softmax(1)
    seeded = [torch.Generator().manual_seed(3) for _ in range(3)]
    assert torch.equal(of["argmax_of"](posterior), Release("argmax")(posterior, seeded[0]))
    noisy = of["noisy_of"](posterior, 0.3, seeded[1])
    assert torch.allclose(noisy, Release("Gaussian noise", 0.3)(posterior, seeded[2]))
    assert not torch.allclose(noisy, posterior, atol=0.05)


@pytest.mark.parametrize("ties", [False, True])
def test_the_curve_its_area_and_the_paired_interval_are_the_librarys(ties):
    of, member = shown("05_roc_analysis"), np.arange(60) < 20
    a, b = (RNG.normal(0, 1, 60) + shift * member for shift in (1.0, 0.5))
    if ties:
        a, b = a.round(), b.round()
    curve = metrics.roc(a, member)
    fpr, tpr = of["roc_by_hand"](a, member)
    np.testing.assert_allclose([fpr, tpr], [curve.fpr, curve.tpr])
    assert of["auc_by_hand"](a, member) == pytest.approx(metrics.auc(a, member).value)
    ends = of["paired_by_hand"](a, b, member, 1000, 0)
    found = metrics.paired_auc_difference(a, b, member, seed=0)
    np.testing.assert_allclose(ends, [found.low, found.high], atol=0.03)  # other draws


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_attacks_with_references_are_the_librarys(k):
    of = shown("06_beyond_the_paper")
    own, theirs = RNG.uniform(0.05, 2, 30), RNG.uniform(0.05, 2, (k, 30))
    sure, others = calibration.confidence(own), calibration.confidence(theirs)
    np.testing.assert_allclose(of["difference"](own, theirs), theirs.mean(0) - own)
    expected = calibration.lira_offline(sure, others, fixed=True)
    np.testing.assert_allclose(of["lira"](own, theirs), expected)
    for a in RMIA_A:
        expected = calibration.likelihood_ratio(-own, -theirs, a=a)
        np.testing.assert_allclose(of["rmia"](own, theirs, a), expected)


def test_an_images_own_area_and_its_error_are_the_librarys():
    of, inside = shown("07_who_is_at_risk"), RNG.random((20, 6)) < 0.4
    scores = RNG.normal(0, RNG.uniform(0.5, 2, 6), (20, 6)) + inside
    areas, errors = metrics.binormal_auc(scores, inside)
    found = [of["own_auc"](one, knew) for one, knew in zip(scores.T, inside.T, strict=True)]
    np.testing.assert_allclose(found, np.stack([areas, errors], 1))


def test_online_lira_on_one_scene_is_the_librarys():
    of, own = shown("07_who_is_at_risk"), RNG.uniform(0.05, 2, 6)
    parts = RNG.uniform(0.05, 2, (5, 6)), RNG.uniform(0.05, 2, (8, 6))
    expected = calibration.lira_online(*(calibration.confidence(part) for part in (own, *parts)))
    found = [of["lira_online"](own[i], *(part[:, i] for part in parts)) for i in range(6)]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_and_flags_are_the_librarys(ties):
    of = shown("09_audit_your_model")
    scores, others = RNG.normal(2, 1, 40), RNG.normal(0, 1, 60)
    if ties:
        scores, others = scores.round(), others.round()
    p_values = np.array([of["p_value"](one, others) for one in scores])
    np.testing.assert_array_equal(p_values, risk.p_values(scores, others))
    found = {rate: of["flags"](p_values, rate) for rate in (0.001, 0.05, 0.2, 0.6)}
    for rate, flagged in found.items():
        np.testing.assert_array_equal(flagged, risk.flagged(p_values, rate))
    assert not found[0.001].any() and found[0.6].any()


@pytest.mark.parametrize(("tpr", "fpr"), [(0.3, 0.01), (0.0, 0.1), (1.0, 0.05)])
def test_the_precision_is_the_librarys(tpr, fpr):
    precision = shown("09_audit_your_model")["precision"]
    for prior in (0.5, 0.1, 0.01):
        assert precision(prior, tpr, fpr) == metrics.precision_at(tpr, fpr, prior)


def test_the_gate_decides_as_it_is_shown():
    decision, best = shown("09_audit_your_model")["decision"], made_up()[0].attacks[0]
    low, value, high = best.auc.low, best.auc.value, best.auc.high
    told = {}
    for limit in (low - 0.01, low, value, high, high + 0.01):
        decided = gate.decide({"auc": limit}, best, None, swapped=False)
        told[limit] = decided.limits[0].decision
        assert decision(limit, low, high) == told[limit]
    assert list(told.values()) == ["fails", "undecided", "undecided", "passes", "passes"]
