"""Who asks whom, and who must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from segleak_utils import metrics, representations, victims
from segleak_utils.attacks import Outputs, contests, references
from segleak_utils.studies import Plan, asking, experiment


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
