"""One look for each attack and attacker, whatever the figure; nothing that matters is hidden."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text

from segleak_utils import figures, metrics
from segleak_utils.attacks import (
    contests,
    ensembles,
    online,
    patchnets,
    peers,
    references,
    variances,
    whitebox,
)
from segleak_utils.audit import attacking
from segleak_utils.data import CLASSES, PALETTE
from segleak_utils.figures import style, widgets
from segleak_utils.metrics import Interval
from segleak_utils.studies import beyond, exposure, frontier, growth

RNG = np.random.default_rng(0)
MEMBER = np.arange(60) < 30
SOME = Interval(0.6, 0.5, 0.7, 30, 30)
# Drawn side by side in the notebooks: these have a colour each.
BARS = (contests.BLIND, contests.GLOBAL, contests.LOGISTIC)
TOGETHER = (
    (*BARS, *(contests.patch_attack(r) for r in patchnets.REPRESENTATIONS)),
    (*BARS, references.DIFFERENCE, references.LIRA, references.RMIA, references.CALIBRATED),
    growth.ATTACKS,
)
# What is left of light (linear RGB) for who lacks one kind of cone: Machado et al. 2009, severity 1
BLIND_TO = {
    "nothing": np.eye(3),
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998]],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
              [-0.011820, 0.042940, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
             [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def seen(colour: str, kind: str) -> np.ndarray:
    """Lightness, and the two opponent colours of CIE Lab."""
    light = np.array(to_rgb(colour))
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    light = (np.array(BLIND_TO[kind]) @ light).clip(0, 1)
    xyz = light @ [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    f = xyz / (0.9505, 1, 1.089)
    f = np.where(f > 0.008856, np.cbrt(f), 7.787 * f + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_every_attack_and_attacker_has_a_look_of_its_own():
    names = {line.attack for line in beyond.read()} | set(growth.ATTACKS) | set(references.LEARNED)
    names |= {contests.BLIND, contests.GLOBAL, contests.LOGISTIC, beyond.PATCHES}
    names |= {contests.patch_attack(r) for r in patchnets.REPRESENTATIONS}
    names |= {peers.DICE, peers.TYPE_1, peers.TYPE_2, peers.LABEL_ONLY, peers.SHAFRAN}
    names |= {online.ONLINE, online.OFFLINE, online.STRUCTURED, exposure.LIRA}
    names |= set(attacking.ORDER)
    names |= {variances.BAVARIA, ensembles.ENSEMBLE, ensembles.TWO_QUESTIONS, whitebox.WHITE_BOX}
    assert names <= set(style.ATTACKS)
    assert set(style.ATTACKERS) == {frontier.NAIVE, frontier.ADAPTIVE}
    for looks in (style.ATTACKS, style.ATTACKERS):
        assert len({(colour, dash) for colour, _, dash in looks.values()}) == len(looks)
        assert len({(colour, marker) for colour, marker, _ in looks.values()}) == len(looks)
        assert {colour for colour, *_ in looks.values()}.isdisjoint({style.MEMBER, style.NONMEMBER})


@pytest.mark.parametrize("kind", BLIND_TO)
def test_what_is_drawn_side_by_side_is_told_apart_by_all_eyes(kind):
    groups = [[style.ATTACKS[name] for name in names] for names in TOGETHER]
    for looks in [*groups, [*style.ATTACKERS.values()]]:
        for (a, *dressed), (b, *other) in itertools.combinations(looks, 2):
            assert np.linalg.norm(seen(a, kind) - seen(b, kind)) > 10, (a, b)
            assert dressed != other
    for colour in {look[0] for look in (*style.ATTACKS.values(), *style.ATTACKERS.values())}:
        assert np.linalg.norm(seen(colour, kind) - seen("#ffffff", kind)) > 30


NAMES = [references.CALIBRATED, contests.GLOBAL]
SCORES = {name: RNG.normal(0, 1, 60) for name in (*NAMES, *style.ATTACKERS)}
AREAS = {name: metrics.auc(scores, MEMBER) for name, scores in SCORES.items()}
HISTORY = [{"epoch": k, "loss": 1 / k, "select_auc": 0.5 + k / 20} for k in (1, 2)]


def example(void: int = 0) -> figures.Example:
    mask = torch.full((16, 32), CLASSES.index("car"))
    mask[:void] = 255
    posterior = torch.full((len(CLASSES), 16, 32), 0.01)
    posterior[CLASSES.index("car")] = 0.82
    posterior[:, 8:14, 8:14] = posterior[:, 8:14, 8:14].flip(0)  # another class, wrongly
    return figures.Example("a scene", torch.rand(3, 16, 32), mask, posterior, torch.ones(16, 32))


def service(names):
    pair = [example(), example()]
    return figures.render_service(pair, PALETTE, {name: SCORES[name] for name in names}, MEMBER)


DRAWN = {
    "roc": lambda names: figures.render_roc({n: SCORES[n] for n in names}, MEMBER, AREAS),
    "against": lambda names: figures.render_against([1, 2], {n: [SOME] * 2 for n in names}, "x"),
    "growth": lambda names: figures.render_growth({"p": {n: {"a": SOME} for n in names}}),
    "grouped": lambda names: figures.render_grouped({"": {"row": {n: SOME for n in names}}}, "x"),
    "trainings": lambda names: figures.render_trainings({n: HISTORY for n in names}),
    "shares_above": lambda names: figures.render_shares_above(
        {n: RNG.random(9) for n in names}, RNG.random(9)
    ),
    "service": service,
}


def colours(figure) -> dict[str, str]:
    """The colour of each series, by its label."""
    lines = [line for axis in figure.axes for line in axis.lines]
    told = {str(line.get_label()): line for line in lines}
    return {
        name: to_hex(line.get_color() if line.get_color() != "white" else line.get_mec()).upper()
        for label, line in told.items()
        for name in SCORES
        if label.startswith(name)
    }


@pytest.mark.parametrize("name", DRAWN)
def test_an_attack_looks_the_same_in_every_figure_and_place(name):
    both = [figures.style.ATTACKS[n][0] for n in NAMES]
    for names in (NAMES, NAMES[::-1], ["something else", *NAMES][1:]):
        assert colours(DRAWN[name](names)) == dict(zip(NAMES, both, strict=True))
    who = [*style.ATTACKERS]
    for names in (who, who[::-1]):
        assert colours(DRAWN[name](names)) == {n: style.ATTACKERS[n][0] for n in who}


def test_intervals_and_releases_have_these_looks_too():
    figure = figures.render_intervals({n: SOME for n in (*NAMES, "another")}, "AUC")
    marks = [line.get_mec() for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert marks == [style.ATTACKS[n][0] for n in NAMES] + ["#444444"]
    rows = [("argmax", who, 0.4, SOME) for who in style.ATTACKERS]
    marks = [line for line in figures.render_releases(rows).axes[0].lines if line.get_mew() == 2]
    told = {str(line.get_label()).split()[0]: line.get_mec() for line in marks}
    assert told == {who: look[0] for who, look in style.ATTACKERS.items()}


def test_the_rest_has_what_is_left():
    taken = [*itertools.islice(style.ATTACKS, 6)]
    looks = style.looks_of([*taken, "one", "two", "three"])
    assert looks[:6] == [style.ATTACKS[name] for name in taken]
    assert len({(colour, dash) for colour, _, dash in looks}) == 9
    assert len({(colour, marker) for colour, marker, _ in looks}) == 9


def test_what_is_no_attack_has_no_attack_s_colour():
    # a green triangle is a regression in one figure, so it is no victim in the next
    names = [f"victim-{k}" for k in range(len(style.PLAIN))]
    looks = style.looks_of(names, style.PLAIN)
    assert len({(colour, dash) for colour, _, dash in looks}) == len(names)
    assert len({(colour, marker) for colour, marker, _ in looks}) == len(names)
    against = figures.render_against([1, 2], {n: [SOME] * 2 for n in names}, "x").axes[0].lines
    panels = {"a": {"b": dict.fromkeys(names, SOME)}}
    grouped = figures.render_grouped(panels, "x", reference=None).axes[0].lines
    attacks = {look[0] for look in (*style.ATTACKS.values(), *style.ATTACKERS.values())}
    drawn = {line.get_color() for line in against}
    drawn |= {line.get_color() for line in grouped if len(line.get_xdata()) == 2}
    drawn -= {"#dddddd"}
    assert drawn == {look[0] for look in looks} and drawn.isdisjoint(attacks)


def test_attacks_of_one_colour_differ_in_their_dash_side_by_side():
    both = [references.CALIBRATED, online.STRUCTURED]
    for names, dashes in ((both, {"-", "--"}), ([both[0], contests.GLOBAL], {"-"})):
        panels = {"a": {"b": dict.fromkeys(names, SOME)}}
        lines = figures.render_grouped(panels, "x", reference=None).axes[0].lines
        bars = [line for line in lines if len(line.get_xdata()) == 2]
        assert {line.get_linestyle() for line in bars} == dashes


def test_void_is_no_surprise_and_no_loss_at_all():
    figure = figures.render_examples([example(void=4)], PALETTE)
    loss = next(axis for axis in figure.axes if "loss map" in axis.get_title()).images[0]
    assert loss.get_array().mask[:4].all() and not loss.get_array().mask[4:].any()
    grey = np.array(loss.cmap.get_bad())
    assert np.ptp(grey[:3]) < 0.12  # a grey, and far from every colour of a loss
    every = loss.cmap(np.linspace(0, 1, 256))
    assert np.abs(every - grey).max(1).min() > 0.1
    drawn = figures.render_service([example(4)] * 2, PALETTE, SCORES, MEMBER)
    shown = [i.get_array() for axis in drawn.axes for i in axis.images]
    assert sum(bool(np.ma.getmaskarray(values).any()) for values in shown) == 2
    gallery = figures.render_gallery(
        [torch.rand(3, 4, 4)],
        [figures.without_void(torch.ones(4, 4), torch.arange(252, 268).view(4, 4))],
        "a",
    )
    assert widgets.png(gallery)


def test_a_mix_up_that_colours_hide_is_outlined_and_no_other():
    truth = torch.full((16, 32), CLASSES.index("car"))
    for name, hidden in (("truck", True), ("road", False)):
        predicted = truth.clone()
        predicted[6:10, 10:20] = CLASSES.index(name)
        found = figures.colour_prediction(predicted, truth, PALETTE)
        white = (found == 255).all(2)
        assert white.any() == hidden and not white[6:10, 10:20].any()
        if hidden:  # all around, and the region keeps its colour
            assert white[5:11, 9:21].sum() == 6 * 12 - 4 * 10 and white.sum() == 32
        assert (found[6:10, 10:20] == PALETTE[CLASSES.index(name)]).all()
    single = truth.clone()
    single[::4, ::4] = CLASSES.index("truck")  # as noise does it: no region
    assert not (figures.colour_prediction(single, truth, PALETTE) == 255).all(2).any()
    void = torch.full_like(truth, 255)
    assert not (figures.colour_prediction(truth, void, PALETTE) == 255).all(2).any()


def test_no_line_runs_through_a_legend():
    series = {who: [SOME, SOME] for who in style.ATTACKERS}
    figure = figures.render_against([1, 2], series, "std", reference={"guessing": 0.5})
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(figure.axes[0].get_window_extent())


def test_no_name_of_the_frontier_lies_on_a_mark_or_on_another_name():
    crowd = [(0.36 + 0.001 * k, 0.65 + 0.02 * (k % 4)) for k in range(9)] + [
        (0.05, 0.6),
        (0.3, 0.5),
    ]
    services = [
        figures.Tradeoff(f"service {k}", f"family {k % 5}", miou,
                         {who: Interval(auc, auc - 0.03, auc + 0.03, 9, 9) for who in "ab"})
        for k, (miou, auc) in enumerate(crowd)
    ]  # fmt: skip
    figure = figures.render_frontier(
        [*services, figures.Tradeoff("", "argmax", 0.366, services[0].aucs)]
    )
    figure.draw_without_rendering()
    for axis in figure.axes:
        names = [Text.get_window_extent(text) for text in axis.texts]
        assert [text.get_text() for text in axis.texts][-1] == "argmax" and len(names) == 12
        marks = [line for line in axis.lines if line.get_marker() not in ("None", "", None)]
        spots = np.concatenate([axis.transData.transform(line.get_xydata()) for line in marks])
        for name, box in zip(axis.texts, names, strict=True):
            assert not any(box.contains(*spot) for spot in spots), name
            assert box.count_overlaps(names) == 1, name  # itself
