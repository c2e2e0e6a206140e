"""A victim of streets that are seen several times: who is in which list, and what is said of it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from segleak_utils import synthstreets
from segleak_utils.metrics import grouped_auc
from segleak_utils.studies import experiment, owners
from segleak_utils.studies.plan import Plan, Sizes
from segleak_utils.victims import Recipe


def made(n_members: int = 40, n_others: int = 160, seed: int = 0) -> list[owners.Seen]:
    """Streets whose images have much in common; members' trained images stand out, others less."""
    rng, found = np.random.default_rng(seed), []
    for k in range(n_members + n_others):
        own, inside = rng.standard_normal(), k < n_members
        for moment in range(owners.MOMENTS):
            trained = inside and moment < owners.TRAINED
            score = own + rng.standard_normal() + 1.5 * trained + 0.5 * inside
            found.append(
                owners.Seen(
                    street=f"s{k}", moment=moment, owner=inside, trained=trained,
                    blind=rng.standard_normal(), loss=score - 0.5, structured=score,
                )
            )  # fmt: skip
    return found


def test_scores_by_street_and_their_estimates():
    found = made()
    scores, owner = owners.of_streets(found, "structured", range(owners.TRAINED))
    assert scores.shape == (200, 4) and owner.sum() == 40
    assert scores[3, 1] == found[3 * owners.MOMENTS + 1].structured
    by = owners.estimates(found, "structured", range(owners.TRAINED))
    assert list(by) == ["one image", "mean of 4", "highest of 4"]
    one, mean, highest = (by[unit][0] for unit in by)
    assert (one.n_members, mean.n_members, mean.n_nonmembers) == (160, 40, 160)
    streets = np.arange(200).repeat(4)
    assert one == grouped_auc(scores.ravel(), owner.repeat(4), streets)
    assert mean.value > one.value and mean.value > highest.value
    left = owners.estimates(found, "structured", range(owners.TRAINED, owners.MOMENTS))
    assert 0.5 < left["one image"][0].value < one.value
    assert owners.estimates(found, "blind", range(4))["mean of 4"][0].contains(0.5)
    lines = owners.table(found).splitlines()
    assert len(lines) == 8 and len({line.count("|") for line in lines}) == 1
    with pytest.raises(ValueError, match="no image of street and moment"):
        owners.of_streets(found[:-1], "loss", range(owners.MOMENTS))


@pytest.mark.slow
def test_some_images_of_a_members_street_are_left_out_of_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "build"))
    small = partial(synthstreets.draw, height=32, width=64)
    for module in ("synthstreets.source", "studies.owners"):
        monkeypatch.setattr(f"segleak_utils.{module}.draw", small)
    plan = Plan(
        sizes=Sizes(n_members=24, n_nonmembers=30, n_shadow_nonmembers=24, n_held_out=4),
        recipe=Recipe(decoder_channels=16, epochs=2),
        weights=tmp_path / "weights",
        data_root=tmp_path / "data",
        progress=False,
    )
    trained, left_out = owners.victim(plan)
    assert trained.model is left_out.model
    assert (len(trained.members), len(trained.nonmembers)) == (24, 60)
    assert (len(left_out.members), len(left_out.nonmembers)) == (12, 30)
    assert set(left_out.members.groups) == set(trained.members.groups)
    assert not set(left_out.members.ids) & set(trained.members.ids)
    assert not set(trained.members.groups) & set(trained.nonmembers.groups)
    experiment.networks(plan, "dependent", 2)
    found = owners.measure(plan)
    assert len(found) == 24 + 60 + 12 + 30
    assert sum(seen.trained for seen in found) == 24 and sum(seen.owner for seen in found) == 36
    assert {seen.moment for seen in found if seen.owner and not seen.trained} == {4, 5}
    again = owners.shipped(tmp_path / "build" / "owners.csv")
    assert [(x.street, x.moment, x.trained) for x in again] == [
        (x.street, x.moment, x.trained) for x in found
    ]


def test_what_is_shipped_is_whole_and_says_what_the_results_say():
    found = owners.shipped()
    streets = {seen.street for seen in found}
    assert len(found) == owners.MOMENTS * len(streets) == 2100
    trained = owners.estimates(found, "structured", range(owners.TRAINED))
    left = owners.estimates(found, "structured", range(owners.TRAINED, owners.MOMENTS))
    blind = [owners.estimates(found, "blind", m) for m in (range(4), range(4, 6))]
    assert all(area.contains(0.5) for by in blind for area, _ in by.values())
    # a street of several images is found more surely than one of them, and by some that were left
    # out of the training, too
    assert trained["mean of 4"][0].low > trained["one image"][0].high
    assert all(area.low > 0.5 for area, _ in left.values())
    assert left["mean of 2"][0].high < trained["one image"][0].low
