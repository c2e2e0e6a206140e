"""The verdict's sentences hold whatever was found; who is compared with whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segleak_utils.attacks.references import CALIBRATED
from segleak_utils.audit import attacking, blind, company, estimates, gate, twins, verdict
from segleak_utils.audit.attacking import Known, Shadow
from segleak_utils.audit.findings import Attack, Blind, Twin
from segleak_utils.audit.pictures import Picture
from segleak_utils.audit.said import Said

C = 3


def headline(scores, member, groups=None) -> Attack:
    how = {"level": 0.95, "seed": 0, "resamples": 400}
    return estimates.attacks_of({"global loss": scores}, member, groups, **how)[0]


def said_of(attack: Attack, **more):
    alone = {"n_references": 0, "n_shadows": 0}
    return verdict.verdict("net", attack, None, (), **(alone | more))


def few_known(n: int, known: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Of n members so many are known by heart; of the others the model is a bit less sure."""
    member = np.arange(2 * n) < n
    scores = rng.normal(size=2 * n)
    scores[:known] += 9
    scores[known:n] -= 0.2
    return scores, member


def test_a_few_that_are_known_by_heart_are_a_leak_though_the_auc_says_nothing():
    attack = headline(*few_known(400, 30, np.random.default_rng(0)))
    assert attack.auc.low < 0.5 < attack.auc.high
    of = said_of(attack)
    assert of.kind == "leak" and "gives away some of the images" in of.found
    assert "of 100 members while it accuses 1 of 100 non-members" in of.found


def test_what_tells_nothing_is_called_a_leak_in_no_more_than_5_of_100_audits():
    """Both ways to be one together; three standard errors of .05 in 300 audits are .038."""
    rng, leaks, swapped = np.random.default_rng(1), 0, 0
    member = np.arange(220) < 100
    for _ in range(300):
        attack = headline(rng.normal(size=220), member)
        leaks += said_of(attack).kind == "leak"
        swapped += verdict.swapped(attack)
    assert leaks / 300 <= 0.05 and swapped <= 2


def test_of_few_owners_a_few_that_stand_out_are_no_evidence():
    scores, member = few_known(400, 40, np.random.default_rng(0))
    for per_owner, kind in ((50, "no evidence"), (5, "leak")):
        groups = [f"owner {i // per_owner}" for i in range(800)]
        scores_ = scores.copy()
        if per_owner == 50:  # five of each owner's, as in the other case
            scores_[:400] = scores[:400].reshape(50, 8).T.ravel()
        of = said_of(headline(scores_, member, groups))
        assert of.kind == kind
        told = any("of fewer than 40 owners of a kind" in text for text in of.warnings)
        assert told == (kind == "no evidence")


def test_numbers_are_never_rounded_to_what_would_be_certain_or_a_guess():
    assert verdict.percent(0.50004) == "50.004" and verdict.percent(0.5) == "50"
    assert verdict.percent(0.99999) == "99.999" and verdict.percent(0.0012) == "0.1"


def test_members_flagged_one_by_one_are_not_passed_over():
    rng = np.random.default_rng(3)
    attack = headline(rng.normal(size=200), np.arange(200) < 100)
    assert said_of(attack).warnings == ()
    assert "2 members are flagged one by one" in said_of(attack, n_flagged=2).warnings[0]


def test_too_few_owners_to_test_the_lists_are_said_to_be():
    rng = np.random.default_rng(0)
    member = np.arange(120) < 60
    groups = [f"drive {i // 20}" for i in range(120)]  # three and three: 20 ways to deal them out
    looks = rng.normal(size=(120, 4)) + 3 * member[:, None]
    found = blind.blind(looks, list("abcd"), member, groups, relabellings=200)
    assert not found.differs and not blind.can_tell(member, groups, 0.95)
    more = [f"drive {i // 10}" for i in range(120)]
    assert blind.can_tell(member, more, 0.95)
    assert blind.blind(looks, list("abcd"), member, more, relabellings=200).differs
    attack = headline(rng.normal(size=120), member, groups)
    alone = {"n_references": 0, "n_shadows": 0, "blind_tells": False}
    assert "too few owners to test" in verdict.verdict("net", attack, found, (), **alone).sure


def test_twins_that_are_not_listed_are_not_denied():
    """Of a film nearly all frames are alike: so many pairs are never in memory at once."""
    member = np.arange(3000) < 1500
    names = [str(i) for i in range(3000)]
    found = twins.twins(
        names, member, [str(i // 2) for i in range(3000)], np.zeros(3000, np.uint64)
    )
    assert len(found) == twins.MOST and all(of.between_lists for of in found)
    attack = headline(np.random.default_rng(0).normal(size=200), np.arange(200) < 100)
    alone = {"n_references": 0, "n_shadows": 0}
    text = verdict.verdict("net", attack, None, found, **alone).warnings[0]
    assert text.startswith("At least 200 pairs of pictures that are nearly the same lie in both")
    one = Twin(first="a", second="b", between_lists=False, kind="same pixels", distance=0)
    text = verdict.verdict("net", attack, None, [one], **alone).warnings[0]
    assert text.startswith("1 pairs of pictures within a list")


# ---- the gate ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "shift", "code"),
    [("auc=.6", 2, 3), ("auc=.6", 0, 0), ("auc=.5", 0, 4), ("tpr_at_0.1pct=.5", 2, 4),
     ("auc=.6,tpr_at_0.1pct=.5", 2, 3), ("auc=.9,tpr_at_10pct=.3", 0, 0)],
)  # fmt: skip
def test_the_gate_goes_by_the_end_of_the_interval(limit, shift, code):
    rng = np.random.default_rng(0)
    member = np.arange(600) < 300
    attack = headline(rng.normal(size=600) + shift * member, member)
    assert gate.decide(gate.limits_of(limit), attack, None, swapped=False).exit_code == code
    assert gate.decide(gate.limits_of(limit), attack, None, swapped=True).exit_code == 5
    unlike = Blind(
        auc=attack.auc, p_value=0.01, relabellings=40, looks=(), most_telling="", differs=True
    )
    assert gate.decide(gate.limits_of(limit), attack, unlike, swapped=False).exit_code == 5


# ---- who is compared with whom -------------------------------------------------------------------


def test_a_picture_is_known_by_its_name_or_the_end_of_its_path():
    of = Picture("m1", Path("/data/train/a.b.png"), None, True, None)
    for name in ("m1", "a.b.png", "a.b", "train/a.b.png", "train/a.b", "/data/train/a.b.png"):
        assert company.named(of, frozenset([name, "other"])), name
    for name in ("a", "b.png", "val/a.b.png", "rain/a.b.png"):
        assert not company.named(of, frozenset([name])), name


def said(difficulty: np.ndarray, member: np.ndarray, rng) -> Said:
    """Losses that follow the images' difficulty, less by a fifth where they were trained on."""
    n = len(difficulty)
    loss = difficulty * np.where(member, 0.8, 1) * rng.uniform(0.95, 1.05, n)
    share = np.full((n, 2 * C), 1 / (2 * C))
    mean = loss[:, None] * rng.uniform(0.9, 1.1, (n, 2 * C))
    zones = np.hstack([mean, mean * share, share])
    wrong = np.clip(mean / 10, 0, 1)
    labels = np.hstack([wrong, wrong * share, share])
    totals = np.zeros((2, C, C), np.int64)
    return Said(tuple(map(str, range(n))), zones, 1 - wrong.mean(1), labels, totals)


def test_shadows_may_share_a_pool_and_none_is_a_reference_for_what_it_saw():
    """Each shadow on a random half of one pool, as is common."""
    rng, k = np.random.default_rng(0), 4
    pool, halves = rng.gamma(2, 1, 300), rng.random((4, 300)) < 0.5
    audited, member = rng.gamma(2, 1, 200), np.arange(200) < 100
    on_pool = [said(pool, halves[i], rng) for i in range(k)]
    victim_on_pool = said(pool, np.zeros(300, bool), rng)
    shadows = []
    for i in range(k):
        beside = [j for j in range(k) if j != i]
        unseen = np.vstack([~halves[beside], np.ones((1, 300), bool)])
        others = (*(on_pool[j] for j in beside), victim_on_pool)
        shadows.append(Shadow(on_pool[i], halves[i], others, unseen))
        stacked = np.stack([one.zones for one in others])
        (case,) = attacking._cases(Known(victim_on_pool, halves[i], shadows=(shadows[-1],)))
        for image in range(300):
            allowed = stacked[unseen[:, image], image]
            assert all((allowed == row).all(1).any() for row in case.references[:, image])
    victim = said(audited, member, rng)
    theirs = tuple(said(audited, np.zeros(200, bool), rng) for _ in range(k))
    scores = attacking.scores_of(Known(victim, member, theirs, shadows=tuple(shadows)))
    assert scores.headline == CALIBRATED
    assert headline(scores.of[CALIBRATED], member).auc.low > 0.9
    assert len(scores.outside[CALIBRATED]) == (~halves).sum()


def test_shadows_of_a_handful_of_images_are_refused_by_their_number():
    rng = np.random.default_rng(0)
    few, many = np.arange(12) < 6, np.arange(40) < 20
    ours, theirs = rng.gamma(2, 1, 40), rng.gamma(2, 1, 12)
    shadow = Shadow(said(theirs, few, rng), few, (said(theirs, ~few, rng),))
    known = Known(said(ours, many, rng), many, (said(ours, ~many, rng),), shadows=(shadow,))
    with pytest.raises(ValueError, match="have 6 members and 6 non-members in all, too few"):
        attacking.scores_of(known)
