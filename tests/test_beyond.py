"""The contest with calibrated attacks, on the shipped networks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segleak_utils import beyond, contests, experiment, metrics
from segleak_utils.experiment import Plan, Sizes


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGLEAK_BUILD", str(tmp_path_factory.mktemp("build")))
        yield Plan(Sizes(n_nonmembers=200), progress=False)


@pytest.mark.timeout(600)
def test_difficulty_is_the_large_lever(plan):
    of = beyond.contest(plan, "dependent")
    names = [attack.name for attack in of.attacks]
    assert names[-3:] == [beyond.DIFFERENCE, beyond.LIRA, beyond.CALIBRATED]
    assert metrics.auc(of[contests.BLIND].scores, of.member).contains(0.5)
    best = of[beyond.CALIBRATED].scores
    for other in names[:-1]:
        ahead = metrics.paired_auc_difference(best, of[other].scores, of.member, seed=0, n_boot=500)
        assert ahead.value > 0, (other, ahead)
        # 200 non-members are too few to part the calibrated attacks from each other
        assert ahead.low > 0 or other in (beyond.DIFFERENCE, beyond.LIRA), (other, ahead)
    accuracy = metrics.balanced_accuracy_at(best, of.member, of[beyond.CALIBRATED].threshold)
    assert accuracy.low > 0.7


def test_a_network_that_was_never_trained_on_the_members_is_not_found_to_leak_them(plan):
    """The control: the attack on a shadow, for the members of the victim."""
    victim = experiment.network(plan, "victim-0")
    one, two = (experiment.network(plan, f"shadow-dependent-{k}") for k in (0, 1))
    shown, reference = (beyond.asked(plan, of, victim) for of in (one, two))
    learned = [(experiment.loss_outputs(plan, a), [beyond.asked(plan, b, a)])
               for a, b in ((one, two), (two, one))]  # fmt: skip
    found = beyond._regression(shown, [reference], learned)
    assert metrics.auc(found.scores, shown.member).contains(0.5)


def test_a_reference_that_was_trained_on_the_images_is_refused(plan):
    victim = experiment.network(plan, "victim-0")
    with pytest.raises(ValueError, match="share"):
        beyond.asked(plan, replace(victim, name="reference"), victim)


def test_one_shadow_is_not_enough(plan):
    with pytest.raises(ValueError, match="another one as its reference"):
        beyond.contest(replace(plan, shadow_seeds=(0,)), "dependent")
