"""Who asks whom, and who must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_victims import scenes_of

from segleak_utils import metrics, representations, victims
from segleak_utils.attacks import Outputs, contests, references
from segleak_utils.studies import Plan, asking, experiment
from segleak_utils.studies.networks import Network


@pytest.fixture
def plan(contest_plan) -> Plan:
    return contest_plan


@pytest.mark.slow
def test_a_reference_that_was_trained_on_the_images_is_refused(plan):
    victim = experiment.network(plan, "victim-0")
    again = replace(victim, name="reference")
    for ask in (asking.asked, lambda p, r, v: asking.case(p, v, [r])):
        with pytest.raises(ValueError, match="share"):
            ask(plan, again, victim)
    with pytest.raises(ValueError, match="no reference for victim-0"):
        asking.case(plan, victim, [])


@pytest.mark.slow
def test_one_pass_keeps_the_loss_maps_and_a_survey_of_the_answers(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path))
    victim = experiment.network(plan, "victim-0")
    few = replace(
        victim, members=victim.members.subset([3, 1]), nonmembers=victim.nonmembers.subset([2])
    )
    told = asking.survey(plan, few)
    monkeypatch.setattr(asking, "logit_batches", None)  # from here on nobody is asked
    monkeypatch.setattr(asking.attacks, "ask", None)
    shown, zones = asking.loss_outputs(plan, few), asking.told(plan, few, few)
    monkeypatch.undo()
    groups = [next(victims.posterior_batches(few.model, g)) for g in (few.members, few.nonmembers)]
    posterior, masks = (torch.cat(parts) for parts in zip(*groups, strict=True))
    expected = Outputs.of(posterior, masks, few.member)
    assert torch.equal(shown.loss_maps, expected.loss_maps)
    assert torch.equal(shown.masks, expected.masks) and np.array_equal(shown.member, few.member)
    np.testing.assert_array_equal(zones, references.of_zones(shown))
    np.testing.assert_allclose(told.dice, representations.dice(posterior, masks), rtol=1e-5)
    top, labelled = posterior.amax(1), masks != 255
    sure = [top[i][labelled[i]].mean().item() for i in range(3)]
    np.testing.assert_allclose(told.confidence, sure, rtol=1e-5)
    counts = victims.confusion_matrix(posterior.argmax(1), masks, few.members.n_classes)
    assert np.array_equal(told.confusion.sum(0), counts)


@pytest.mark.slow
def test_there_are_eight_networks_of_the_city_and_two_of_the_other(plan):
    with pytest.raises(ValueError, match=r"9 networks, dependent: expected 1\.\.8"):
        experiment.networks(plan, "dependent", 9)
    with pytest.raises(ValueError, match=r"expected 1\.\.2"):
        experiment.networks(plan, "independent", 3)
    with pytest.raises(ValueError, match=r"0 networks"):
        experiment.networks(plan, "dependent", 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_with_one_network_the_victim_is_the_reference_of_the_shadow(plan):
    victim = experiment.network(plan, "victim-0")
    (shadow,) = experiment.networks(plan, "dependent", 1)
    (learned,) = asking.shadow_cases(plan, [shadow], victim)
    assert learned.references.shape[0] == 1 and learned.member.sum() == 400
    of = asking.case(plan, victim, [shadow])
    found = {a.name: a for a in references.reference_attacks(of, [learned])}
    plain = metrics.auc(found[contests.LOGISTIC].scores, victim.member)
    for name in (references.DIFFERENCE, references.RMIA, references.PER_CLASS):
        assert metrics.auc(found[name].scores, victim.member).value > plain.value


PLAN = Plan(progress=False)


# ---- questions, and who stands in, with tiny networks --------------------------------------------


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> list[Network]:
    """Three networks of one 3x3 layer, so that a flip is another question; scenes of their own."""
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path))
    found = []
    for k in range(3):
        torch.manual_seed(k)
        net = torch.nn.Conv2d(3, 3, 3, padding=1).eval()
        found.append(Network(f"n{k}", net, {}, "", scenes_of(3, 2 * k), scenes_of(2, 2 * k + 1)))
    return found


def test_two_questions_are_the_mean_over_the_image_and_its_flip(tiny):
    of, reference, _ = tiny
    once, twice = (asking.case(PLAN, of, [reference], questions=n) for n in (1, 2))
    for by, first, both in (
        (of, once.losses[0], twice.losses[0]),
        (reference, once.losses[1][0], twice.losses[1][0]),
    ):
        expected = []
        for scenes in (of.members, of.nonmembers):
            for image, mask in scenes:
                asked = [(image, mask), (image.flip(-1), mask.flip(-1))]
                logits = [by.model(x[None]) for x, _ in asked]
                expected.append(
                    [
                        torch.nn.functional.cross_entropy(z, m[None], ignore_index=255).item()
                        for z, (_, m) in zip(logits, asked, strict=True)
                    ]
                )
        np.testing.assert_allclose(first, [a for a, _ in expected], rtol=2e-3)
        np.testing.assert_allclose(both, np.mean(expected, 1), rtol=2e-3)
        assert not np.allclose(first, both, rtol=1e-4)
    with pytest.raises(ValueError, match="questions"):
        asking.case(PLAN, of, [reference], questions=3)


def test_the_victim_stands_in_as_the_reference_that_a_shadow_lacks(tiny):
    victim, *shadows = tiny
    usual = asking.shadow_cases(PLAN, shadows, victim)
    full = asking.shadow_cases(PLAN, shadows, victim, stand_in=True, questions=2)
    assert [len(c.references) for c in usual] == [1, 1]
    assert [len(c.references) for c in full] == [2, 2]
    for shadow, other, case in zip(shadows, shadows[::-1], full, strict=True):
        for at, by in enumerate((other, victim)):
            alone = asking.case(PLAN, shadow, [by], questions=2)
            assert np.array_equal(case.references[at], alone.references[0])


def test_opened_networks_have_gradients_beside_losses_in_one_order(tiny):
    of, reference, _ = tiny
    found = asking.opened(PLAN, of, [reference])
    groups = of.members, of.nonmembers
    for by, norms in ((of, found.own), (reference, found.theirs[0])):
        expected = [victims.gradient_norms(by.model, scenes) for scenes in groups]
        np.testing.assert_allclose(norms, np.concatenate(expected))
    assert np.array_equal(found.case.own, asking.case(PLAN, of, [reference]).own)
