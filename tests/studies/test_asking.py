"""Who asks whom, and who must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segleak_utils import metrics
from segleak_utils.attacks import contests, references
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
    victim, (shadow,) = (
        experiment.network(plan, "victim-0"),
        experiment.networks(plan, "dependent", 1),
    )
    (learned,) = asking.shadow_cases(plan, [shadow], victim)
    assert learned.references.shape[0] == 1 and learned.member.sum() == 400
    of = asking.case(plan, victim, [shadow])
    found = {a.name: a for a in references.reference_attacks(of, [learned])}
    member = np.arange(600) < 400
    plain = metrics.auc(found[contests.LOGISTIC].scores, member)
    for name in (references.DIFFERENCE, references.RMIA, references.PER_CLASS):
        assert metrics.auc(found[name].scores, member).value > plain.value
