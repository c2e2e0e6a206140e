"""The attacks of other papers on a shipped victim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from segleak_utils import attacks, metrics
from segleak_utils.attacks import contests, peers
from segleak_utils.attacks.peers import ImageRecipe
from segleak_utils.studies import Plan, Sizes, asking, experiment, literature, standard

VOID = 255


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGLEAK_BUILD", str(tmp_path_factory.mktemp("build")))
        yield Plan(Sizes(n_nonmembers=200), progress=False)


@pytest.fixture(scope="module")
def networks(plan):
    """The victim and two shadows of the shipped ones, with 30 scenes of either kind each."""
    names = ("victim-0", "shadow-dependent-0", "shadow-dependent-1")
    found = [experiment.network(plan, name) for name in names]
    return [
        replace(
            of, members=of.members.subset(range(30)), nonmembers=of.nonmembers.subset(range(30))
        )
        for of in found
    ]


# --------------------------------------------------------------------------- the five of them


@pytest.mark.slow
def test_the_five_peers_on_a_shipped_victim(plan, networks):
    victim, *shadows = networks
    recipe = ImageRecipe("resnet10t", pool=4, epochs=2)
    found = literature.peer_attacks(plan, victim, shadows, recipe=recipe)
    names = [peers.DICE, peers.TYPE_1, peers.TYPE_2, peers.LABEL_ONLY, peers.SHAFRAN]
    assert [attack.name for attack in found] == names
    shown = asking.loss_outputs(plan, victim)
    for attack in found:
        assert attack.scores.shape == (60,) and attack.scores.dtype == np.float64
        assert np.isfinite(attack.scores).all() and np.isfinite(attack.threshold)
        if attack.name not in (peers.TYPE_1, peers.TYPE_2):  # two epochs teach those nothing
            assert metrics.auc(attack.scores, shown.member).high > 0.5, attack.name
    rows = standard.rows(contests.Contest("victim-0", "dependent", shown.member, tuple(found)), "x")
    assert len(rows) == 5
    again = literature.peer_attacks(plan, victim, shadows, recipe=recipe)  # from the cache
    for a, b in zip(found, again, strict=True):
        assert np.array_equal(a.scores, b.scores) and a.threshold == b.threshold


@pytest.mark.slow
def test_predictions_fit_the_losses(plan, networks):
    shown = asking.loss_outputs(plan, networks[0])
    said = literature.predictions(plan, networks[0])
    assert said.dtype == torch.uint8 and said.shape == shown.masks.shape
    labelled = shown.masks != VOID
    right = (said == shown.masks)[labelled]
    losses = shown.loss_maps[:, 0][labelled].float()
    # a pixel whose class has more than half the probability is right; one with less than 1/C is not
    assert right[losses < np.log(2) - 0.01].all() and not right[losses > np.log(19) + 0.01].any()


@pytest.mark.slow
def test_a_reference_is_asked_about_the_victims_scenes(plan, networks):
    victim, shadow, _ = networks
    said = literature.predictions(plan, victim, shadow)
    assert said.shape == literature.predictions(plan, victim).shape
    assert not torch.equal(said, literature.predictions(plan, victim))
    with pytest.raises(ValueError, match="share"):
        literature.predictions(plan, victim, replace(victim, name="reference"))


@pytest.mark.slow
def test_without_shadows_or_with_shared_scenes_there_is_no_attack(plan, networks):
    victim, shadow, _ = networks
    with pytest.raises(ValueError, match="no shadow"):
        literature.peer_attacks(plan, victim, [])
    with pytest.raises(ValueError, match="share"):
        literature.peer_attacks(plan, victim, [shadow, replace(victim, name="shadow")])


@pytest.mark.slow
def test_dice_of_the_contest_is_that_of_the_posteriors(plan, networks):
    victim = networks[0]
    found = attacks.ask(
        victim.model, victim.members.subset([0]), victim.nonmembers.subset([0]),
        keep_posteriors=True,
    )  # fmt: skip
    expected = []
    for posterior, mask in zip(found.posteriors.double(), found.masks, strict=True):
        kept, values = mask != VOID, []
        for c in mask[kept].unique().tolist():
            truth, said = (mask == c)[kept].double(), posterior[c][kept]
            values.append(2 * (truth * said).sum() / (truth.sum() + said.sum()))
        expected.append(float(torch.stack(values).mean()))
    dice = literature._answers(plan, victim)["dice"]
    np.testing.assert_allclose(dice[[0, 30]], expected, rtol=2e-3)
