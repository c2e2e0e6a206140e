"""The pictures: they can be drawn and saved, are labelled, and leave pyplot as it was."""

from __future__ import annotations

import dataclasses
import io

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
import torch
from matplotlib.figure import Figure

from segleak_utils import defenses, figures, metrics
from segleak_utils.data import Scenes
from segleak_utils.figures import style
from segleak_utils.metrics import Interval

C, SIZE = 4, (16, 32)
NAMES = ("road", "car", "sky", "pole")
PALETTE = np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180], [153, 153, 153]], np.uint8)
RNG = np.random.default_rng(0)
MEMBER = np.arange(150) < 50
SCORES = {name: RNG.normal(0, 1, 150) + shift * MEMBER for name, shift in (("a", 1), ("b", 0))}
AREAS = {name: metrics.auc(values, MEMBER) for name, values in SCORES.items()}
RATES = {name: metrics.tpr_at_fpr(values, MEMBER, 0.1) for name, values in SCORES.items()}
SOME = {"first": Interval(0.6, 0.5, 0.7, 50, 100), "second": Interval(0.7, 0.65, 0.75, 50, 100)}
LOSSES = np.where(RNG.random((150, C)) < 0.2, np.nan, RNG.random((150, C)))
HISTORY = [{"epoch": k, "loss": 1 / k, "select_auc": 0.5 + k / 20} for k in (1, 2, 3)]
TRAINED = {
    "train_loss": [2.0, 1.5, 1.0], "held_out_miou": [[2, 0.3], [3, 0.4]],
    "member_miou": 0.5, "nonmember_miou": 0.4,
}  # fmt: skip


def example(seed: int, scale: float = 1) -> figures.Example:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, C, SIZE, generator=rng)
    mask[0] = 255
    posterior = torch.rand(C, *SIZE, generator=rng).softmax(0)
    loss = scale * torch.rand(SIZE, generator=rng)
    return figures.Example(
        f"scene {seed}", torch.rand(3, *SIZE, generator=rng), mask, posterior, loss
    )


A, B = example(0), example(1, scale=5)


def scenes() -> Scenes:
    images = RNG.integers(0, 256, (5, 3, *SIZE), dtype=np.uint8)
    masks = RNG.integers(0, C, (5, *SIZE), dtype=np.uint8)
    return Scenes.from_arrays(images, masks, [f"s{i}" for i in range(5)], NAMES, PALETTE)


POINTS = np.linspace(0.001, 1, 20)
P_VALUES = RNG.random(60)
COUNTS = torch.tensor([[100.0, 20, 30], [0, 0, 0], [300, 240, 180]], dtype=torch.float64)
CASES = {
    "mislabelled": lambda: figures.render_mislabelled(
        [A.image, B.image], [A.mask, B.mask], [A.mask == 1, B.mask == 99], PALETTE
    ),
    "threshold": lambda: figures.render_threshold(SCORES["a"], MEMBER, 0.5),
    "calibration": lambda: figures.render_calibration(
        {"members": COUNTS, "non-members": COUNTS / 2}, "temperature 1"
    ),
    "kept": lambda: figures.render_kept(A.loss, A.mask == 1, SCORES["a"], MEMBER, "AUC"),
    "votes": lambda: figures.render_votes(
        A.loss, torch.tensor([[0, 0], [2, 3]]), 4, MEMBER[49:51], SCORES["a"], MEMBER, 0.5, "AUC"
    ),
    "worth": lambda: figures.render_worth(
        SCORES["a"], MEMBER, RATES["a"], 0.1, 0.01, "global loss"
    ),
    "by_references": lambda: figures.render_by_references(
        SCORES["a"], MEMBER, {"AUC": {"RMIA": [RATES["a"]] * 3}}, "RMIA", 2
    ),
    "p_values": lambda: figures.render_p_values(P_VALUES, P_VALUES < 0.05),
    "owners": lambda: figures.render_owners({"a": 0.9, "b": 0.4}, {"a": 3, "b": 9}),
    "exposed": lambda: figures.render_exposed(
        [(name, e.image, e.loss.numpy(), e.loss.numpy() / 2) for name, e in (("a", A), ("b", B))]
    ),
    "lists": lambda: figures.render_lists(
        {"members": [("a", A.image, A.mask)], "non-members": [("b", B.image, B.mask)]}
    ),
    "releases": lambda: figures.render_releases(
        [(r, who, 0.4 + k / 9, SOME["first"])
         for k, r in enumerate("xyz") for who in ("naive", "adaptive")]
    ),
    "contact_sheet": lambda: figures.render_contact_sheet(scenes()),
    "palette": lambda: figures.render_palette(NAMES, PALETTE),
    "examples": lambda: figures.render_examples([A, B], PALETTE, "title"),
    "gallery": lambda: figures.render_gallery(
        [A.image] * 3, [A.loss] * 3, "abc", ["red"] * 3, columns=2
    ),
    "confidence": lambda: figures.render_confidence([A, B]),
    "pixels": lambda: figures.render_pixels(A, {"p": (3, 5), "q": (0, 20)}, NAMES, PALETTE),
    "channels": lambda: figures.render_channels({"a": A.posterior, "b": B.posterior}, NAMES),
    "maps": lambda: figures.render_maps({"a": A.loss, "b": B.loss}),
    "class_bars": lambda: figures.render_class_bars(
        {"members": np.array([0.5, np.nan, 0.2, 1]), "others": np.arange(4) / 4}, NAMES, "IoU"
    ),
    "victim_training": lambda: figures.render_victim_training(TRAINED),
    "trust": lambda: figures.render_trust(RNG.random(150), RNG.random(150), MEMBER),
    "class_gap": lambda: figures.render_class_gap(LOSSES, MEMBER, NAMES),
    "scores": lambda: figures.render_scores(SCORES, MEMBER, {"a": 0.5, "b": np.inf}),
    "roc": lambda: figures.render_roc(SCORES, MEMBER, AREAS),
    "intervals": lambda: figures.render_intervals(SOME, "AUC"),
    "against": lambda: figures.render_against(
        [1, 2], {"a": [*SOME.values()]}, "patches", reference={"global loss": 0.6}
    ),
    "patches": lambda: figures.render_patches(A.loss, torch.tensor([[0, 0], [4, 9]]), 8, "title"),
    "roles": lambda: figures.render_roles({"victim": [(A.image, True), (B.image, False)]}),
    "patch_strip": lambda: figures.render_patch_strip(
        torch.stack([A.loss, B.loss]), torch.stack([A.mask, B.mask]), MEMBER[49:51], PALETTE
    ),
    "evidence": lambda: figures.render_evidence({"a": (A.image, A.loss, B.loss - 2)}),
    "trainings": lambda: figures.render_trainings({"a": HISTORY, "b": HISTORY}),
    "toy_roc": lambda: figures.render_toy_roc(np.arange(8.0), np.arange(8) % 3 == 0),
    "subsamples": lambda: figures.render_subsamples({50: [*SOME.values()]}, SOME["second"]),
    "service": lambda: figures.render_service([A, B], PALETTE, SCORES, MEMBER, "title"),
    "frontier": lambda: figures.render_frontier(
        [figures.Tradeoff(f"d{k}", f"family {k // 2}", k / 10, SOME) for k in range(4)]
    ),
    "allowed": lambda: figures.render_allowed(
        {"a": (POINTS, POINTS**0.5)}, {"b": (POINTS, POINTS**0.7), "c": (POINTS, POINTS)}
    ),
    "budget": lambda: figures.render_budget(
        {"steps": {"a": (POINTS + 1, POINTS + 1)}, "rate": {"b": (POINTS + 1, POINTS + 2)}},
        {"steps": {"net": (1.5, 2.5)}},
    ),
    "canaries": lambda: figures.render_canaries(
        SCORES["a"], MEMBER, 0.5, {"one": 0.2, "other": 0.7}, 1.0, 1.6
    ),
    "shares": lambda: figures.render_shares([("losses", 0.0), ("sums", 0.8)], 1.1),
    "grouped": lambda: figures.render_grouped({"p": {"x": SOME, "y": SOME}}, "AUC"),
    "difficulty": lambda: figures.render_difficulty(RNG.random(150), RNG.random(150), MEMBER),
    "leak_maps": lambda: figures.render_leak_maps({"a": (A.image, A.loss, B.loss, B.loss - 2)}),
    "two_attackers": lambda: figures.render_two_attackers(
        RNG.random(150), RNG.random(150), MEMBER, (0.5, 0.6), 0.05
    ),
    "own_scores": lambda: figures.render_own_scores(
        {"a": (RNG.random(12), np.arange(12) % 2 == 0), "b": (RNG.random(12), np.arange(12) < 6)},
        "score",
    ),
    "shares_above": lambda: figures.render_shares_above(
        {"a": RNG.random(50), "b": RNG.random(50)}, RNG.random(200), 0.9
    ),
    "twice": lambda: figures.render_twice(RNG.random(50), RNG.random(50), "first", "second"),
    "growth": lambda: figures.render_growth({"p": {"x": SOME}}),
    "bounds": lambda: figures.render_bounds([("a", None, 1.5, 5.5), ("b", 1.0, 0.0, 5.5)]),
}  # fmt: skip
# Pictures of pictures have no axes to label: their rows, columns and colour bars have names.
PICTURES = {"contact_sheet", "palette", "gallery", "maps"}


@pytest.fixture(autouse=True)
def without_a_screen(monkeypatch):
    plt.switch_backend("Agg")
    plt.close("all")


def drawn(name: str) -> Figure:
    figure = CASES[name]()
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def test_the_legend_of_examples_names_what_occurs_and_void():
    (legend,) = figures.render_examples([A, B], PALETTE, "two", NAMES).legends
    told = [text.get_text() for text in legend.get_texts()]
    assert sorted(told) == sorted([*NAMES, "void"]) and told[-1] == "void"
    assert not figures.render_examples([A, B], PALETTE).legends


@pytest.mark.parametrize("name", CASES)
def test_a_figure_can_be_saved_and_is_labelled(name):
    before = plt.rcParams.copy()
    figure = drawn(name)
    assert isinstance(figure, Figure) and plt.get_fignums() == [] and plt.rcParams == before
    words = [axis.get_xlabel() or axis.get_ylabel() or axis.get_title() for axis in figure.axes]
    assert any(words) or figure.axes[0].get_legend()
    if name not in PICTURES:
        charts = [axis for axis in figure.axes if not axis.images and axis.lines]
        assert all(axis.get_xlabel() or axis.get_ylabel() for axis in charts)


def test_every_picture_is_tested():
    found = {name for name in figures.__all__ if name.startswith("render_")}
    assert found == {f"render_{name}" for name in CASES}


def test_colours_are_the_palettes_and_a_foreign_label_is_named():
    found = figures.colour_mask(torch.tensor([[0, 3, 255]]), PALETTE)
    assert found.dtype == np.uint8 and found.tolist() == [[[128, 64, 128], [153] * 3, [0] * 3]]
    for label in (4, -1):
        with pytest.raises(ValueError, match=f"label {label} has no colour; the palette has 4"):
            figures.colour_mask(torch.tensor([[0, label]]), PALETTE)


def test_loss_maps_side_by_side_share_one_colour_scale():
    figure = drawn("examples")
    bar = next(axis for axis in figure.axes if "nats" in axis.get_ylabel())
    limits = {axis.images[0].get_clim() for axis in figure.axes[3:8:4]}
    assert len(limits) == 1 and bar.get_ylim() in limits
    ((low, high),) = limits
    assert low == 0 and 4.5 < high <= 5  # of both rows, not of the first


def test_an_example_without_a_label_can_be_drawn():
    blank = figures.Example("void", A.image, torch.full(SIZE, 255), A.posterior, 0 * A.loss)
    figures.render_examples([blank], PALETTE).savefig(io.BytesIO(), dpi=40)


def test_the_mask_of_an_example_may_be_any_integer():
    figures.render_confidence([figures.Example("", A.image, A.mask.byte(), A.posterior, A.loss)])


def test_the_log_log_roc_starts_at_one_over_n():
    figure = drawn("roc")
    linear, log = figure.axes
    assert log.get_xscale() == log.get_yscale() == "log" and linear.get_xscale() == "linear"
    curves = [line for line in log.lines if len(line.get_xdata()) > 2]
    assert len(curves) == 2
    assert all(min(line.get_xdata()) == pytest.approx(1 / 100) for line in curves)
    assert 0.5 / 100 < log.get_xlim()[0] <= 1 / 100


def test_the_class_gap_is_the_difference_of_means():
    figure = drawn("class_gap")
    left, right = figure.axes
    inside, outside = np.nanmean(LOSSES[MEMBER], 0), np.nanmean(LOSSES[~MEMBER], 0)
    np.testing.assert_allclose(left.lines[0].get_xdata(), inside)
    np.testing.assert_allclose(left.lines[1].get_xdata(), outside)
    points = next(line for line in right.lines if line.get_marker() == "s")
    np.testing.assert_allclose(points.get_xdata(), outside - inside)


def test_one_image_of_a_class_gives_no_interval():
    losses = np.full((4, 1), np.nan)
    losses[[0, 2]] = [[1.0], [2.0]]
    figure = figures.render_class_gap(losses, np.arange(4) < 2, ["road"])
    (bar,) = figure.axes[1].collections
    ends = [end for segment in bar.get_segments() for end in segment]
    assert not np.isfinite(ends).any()  # never certainty


def test_no_attack_is_dropped_for_want_of_a_colour():
    many = {f"attack {k}": SCORES["a"] + k for k in range(8)}
    areas = dict.fromkeys(many, AREAS["a"])
    try:
        figure = figures.render_roc(many, MEMBER, areas)
    except ValueError:
        return  # refusing is as good
    assert sum(len(line.get_xdata()) > 2 for line in figure.axes[0].lines) == 8


def test_constant_scores_can_be_drawn():
    figures.render_scores({"constant": np.zeros(150)}, MEMBER).savefig(io.BytesIO(), dpi=40)


def test_a_service_is_drawn_on_the_same_scales_whatever_it_releases():
    def scales(pair):
        figure = figures.render_service(pair, PALETTE, SCORES, MEMBER)
        shown = [image for axis in figure.axes for image in axis.images]
        return [i.get_clim() for i in shown if i.get_array().shape == A.loss.shape]

    assert scales([A, B]) == scales([B, A]) == 2 * [(0, 1), (0, 5)]


def test_a_mark_of_the_frontier_is_where_the_numbers_are():
    found = [figures.Tradeoff("", "family", 0.3, SOME), figures.Tradeoff("", "other", 0.4, SOME)]
    figure = figures.render_frontier(found)
    for axis, area in zip(figure.axes, SOME.values(), strict=True):
        marks = [line for line in axis.lines if line.get_marker() not in ("None", None, "")]
        assert [(*line.get_xdata(), *line.get_ydata()) for line in marks] == [
            (0.3, area.value),
            (0.4, area.value),
        ]


def test_a_release_changes_what_an_example_shows_and_not_its_scene():
    seen = A.through(defenses.Release("argmax"), seed=0)
    assert torch.equal(seen.image, A.image) and torch.equal(seen.mask, A.mask)
    assert set(seen.posterior.unique().tolist()) == {0, 1}
    assert torch.equal(seen.posterior.argmax(0), A.posterior.argmax(0))
    right = (seen.posterior.argmax(0) == A.mask) | (A.mask == 255)
    assert torch.equal(seen.loss == 0, right)


def test_series_never_look_alike_and_the_first_eight_as_ever():
    looks = style.looks_of(range(32))
    assert list(looks[:8]) == list(figures.LOOKS)
    assert len({(colour, dash) for colour, _, dash in looks}) == 32
    assert len({(colour, marker) for colour, marker, _ in looks}) == 32
    with pytest.raises(ValueError, match="33 series"):
        style.looks_of(range(33))


def test_the_bars_of_a_roc_are_the_intervals_side_by_side():
    plain, barred = (figures.render_roc(SCORES, MEMBER, AREAS, r, 0.1) for r in ({}, RATES))
    log = barred.axes[1]
    assert len(log.lines) == len(plain.axes[1].lines) + 2 * len(SCORES)
    bars = [
        line.get_data()
        for line in log.lines
        if line.get_linewidth() == 2 and len(line.get_xdata()) == 2
    ]
    drawn = {(round(float(y[0]), 9), round(float(y[1]), 9)) for x, y in bars if x[0] == x[1]}
    assert {(round(r.low, 9), round(r.high, 9)) for r in RATES.values()} <= drawn
    assert len({float(x[0]) for x, _ in bars}) >= len(RATES) and "10 %" in log.get_title()


def test_an_attack_that_is_not_at_every_value_is_drawn_at_its_own():
    some = next(iter(AREAS.values()))
    of = {"everywhere": dict.fromkeys(("1", "2", "4"), some), "elsewhere": {"4": some}}
    axis = figures.render_growth({"members": of}).axes[0]
    places = {line.get_label(): np.round(line.get_xdata()).tolist() for line in axis.lines}
    assert places["everywhere"] == [0, 1, 2] and places["elsewhere"] == [2]


def test_thirteen_attacks_have_one_roc_picture_and_an_audit_without_references_its_own():
    scores = {f"attack {k}": SCORES["a"] + k for k in range(13)}
    areas = dict.fromkeys(scores, AREAS["a"])
    assert len(figures.render_roc(scores, MEMBER, areas).axes[0].lines) == 14
    alone = figures.render_exposed([("a", A.image, A.loss.numpy(), None)])
    assert [axis.get_title() for axis in alone.axes[:2]] == ["image", "the model's loss"]


def test_lists_of_any_length_and_size_are_shown_with_any_names():
    small = ("$x$y^_" * 9, A.image[:, :8], A.mask[:8])
    figure = figures.render_lists({"members": [small, small], "non-members": [small]})
    titled = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert titled == ["members", "non-members"] and len(figure.axes) == 8
    figure.savefig(io.BytesIO(), dpi=40)
    figures.render_owners({small[0]: 0.9}, {small[0]: 3}).savefig(io.BytesIO(), dpi=40)
    row = (small[0], A.image, A.loss.numpy(), None)
    figures.render_exposed([row]).savefig(io.BytesIO(), dpi=40)
    with pytest.raises(ValueError, match="lists members: no image in any"):
        figures.render_lists({"members": []})


def test_a_roc_names_the_level_of_its_intervals():
    areas = {name: dataclasses.replace(area, level=0.9) for name, area in AREAS.items()}
    (legend,) = figures.render_roc(SCORES, MEMBER, areas).legends
    assert legend.get_title().get_text() == "AUC [90 % interval]"


def test_a_curve_of_shares_counts_who_lies_above():
    figure = figures.render_shares_above({"a": np.array([0.3, 0.5, 0.9])}, np.array([0.5]), 0.6)
    curve = figure.axes[0].lines[0]
    at = dict(zip(curve.get_xdata().round(4), curve.get_ydata(), strict=True))
    assert (at[0.2], at[0.4], at[0.6], at[0.95]) == pytest.approx((1, 2 / 3, 1 / 3, 0))


def test_a_picture_has_the_pixels_that_matplotlib_saves():
    for draw in (
        lambda: figures.render_scores(SCORES, MEMBER),
        lambda: figures.render_roc(SCORES, MEMBER, AREAS, RATES),
        lambda: figures.render_intervals(AREAS, "AUC"),
    ):
        saved, figure = io.BytesIO(), draw()
        engine, dots = figure.get_layout_engine(), figure.dpi
        picture = style.png(figure)
        draw().savefig(saved, format="rgba", dpi=style.DPI)
        assert np.asarray(PIL.Image.open(io.BytesIO(picture))).tobytes() == saved.getvalue()
        assert (figure.get_layout_engine(), figure.dpi) == (engine, dots)
