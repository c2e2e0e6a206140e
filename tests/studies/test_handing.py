"""The default victim as an auditor gets it: pictures as they were drawn, networks by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from segleak_utils.audit import reading
from segleak_utils.audit.networks import network
from segleak_utils.audit.pictures import listed, of_pairs
from segleak_utils.audit.pixels import Reader
from segleak_utils.studies import experiment, handing
from segleak_utils.studies.plan import Plan, Sizes


@pytest.fixture
def small(tmp_path) -> tuple[Plan, Path]:
    plan = Plan(Sizes(n_members=6, n_nonmembers=9, n_held_out=2), data_root=tmp_path / "data",
                progress=False)  # fmt: skip
    how = {"n_members": 6, "n_nonmembers": 9, "n_references": 1}
    return plan, handing.hand_over(plan, tmp_path / "handed", **how)


def test_what_is_handed_over_is_what_the_network_was_trained_on(small):
    plan, path = small
    told = reading.read(path)
    found = listed(told.data, path.parent)
    members, nonmembers, _ = experiment.roles(plan, "victim-0")
    assert [of.member for of in found] == [True] * 6 + [False] * 9
    reader = Reader(told.data)
    for i, scenes in ((0, members), (6, nonmembers)):
        image, mask = reader.read(found[i])
        assert torch.equal(image, scenes[0][0]) and torch.equal(mask, scenes[0][1])
    assert told.data.names == members.class_names
    shadow = told.references[0].shadow
    theirs = of_pairs(shadow.members, told.data, member=True, base=path.parent)
    own, _, _ = experiment.roles(plan, "shadow-dependent-0")
    assert np.array_equal(reader.read(theirs[0])[0], own[0][0])


def test_networks_are_found_by_name(small):
    _, path = small
    told = reading.read(path)
    of = network(told.answers, told.data.n_classes or len(told.data.names))
    image, _ = Reader(told.data).read(listed(told.data, path.parent)[0])
    assert of.posteriors(image[None], (), 8)[0].shape == (1, 19, 16, 32)
    assert handing.victim_1 is not handing.victim_0 and handing.shadow_0().training is False


def test_another_list_replaces_the_pictures_that_were_there(small):
    plan, path = small
    folder = path.parent / "victim" / "members" / "images"
    times = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.png")}
    handing.hand_over(plan, path.parent, n_members=6, n_nonmembers=9, n_references=1)
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("*.png")} == times
    handing.hand_over(plan, path.parent, n_members=4, n_nonmembers=9, n_references=1)
    assert len(list(folder.glob("*.png"))) == 4
    assert yaml.safe_load(path.read_text())["fail_above"] == {"auc": 0.6}
