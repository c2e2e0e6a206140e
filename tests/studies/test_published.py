"""The authors' example folder: read, refused, and scored as the published script scores it."""

from __future__ import annotations

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import example_folder
import nbformat
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from segleak_utils import attacks, representations, studies, victims
from segleak_utils.attacks import patchnets
from segleak_utils.data import CLASSES
from segleak_utils.data.examples import read, values
from segleak_utils.defenses import Release
from segleak_utils.running import execution, parameters, results
from segleak_utils.studies import asking, experiment, networks, offers, published, standard
from segleak_utils.studies.plan import ROOT
from segleak_utils.studies.published import published_scores
from segleak_utils.victims import Recorded

LOSS, CONCATENATION = "loss map", "concatenation"
CHANNELS = {LOSS: 1, CONCATENATION: 38}
GRID = (16, 32)  # for the tests that need no patch


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return example_folder.fake(tmp_path_factory.mktemp("whole") / "examples", n=2, grid=GRID)


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "examples"))


@pytest.fixture(scope="module")
def attackers(tmp_path_factory) -> Path:
    """The published pair of each kind: ``plain`` (one with a prefix) and ``dilated``."""
    root = tmp_path_factory.mktemp("attackers")
    for name, dilated in (("plain", False), ("dilated", True)):
        for r, file in published.ATTACKERS.items():
            example_folder.public_checkpoint(
                root / name / file, CHANNELS[r], dilated, module=r == CONCATENATION
            )
    return root


# ---- the published network -----------------------------------------------------------------------


def published_forward(state: dict, x: torch.Tensor, dilated: bool) -> tuple:
    """The published topology, written out: logits [N,2] and the last map."""

    def conv(name, x, stride=1, dilation=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2 * dilation, dilation)

    def norm(name, x):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))

    for k, stride in ((0, 2), (3, 1), (6, 1)):
        x = norm("bn1" if k == 6 else f"conv1.{k + 1}", conv(f"conv1.{k}", x, stride)).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for layer, blocks, stride, wide in ((1, 3, 1, 1), (2, 4, 2, 1), (3, 6, 1, 2), (4, 3, 1, 4)):
        for k in range(blocks):
            at, step = f"layer{layer}.{k}", stride if k == 0 else 1
            spread = 1 if not dilated else max(1, wide // 2) if k == 0 else wide
            y = norm(f"{at}.bn1", conv(f"{at}.conv1", x)).relu()
            y = norm(f"{at}.bn2", conv(f"{at}.conv2", y, step, spread)).relu()
            y = norm(f"{at}.bn3", conv(f"{at}.conv3", y))
            if k == 0:
                x = norm(f"{at}.downsample.1", conv(f"{at}.downsample.0", x, step))
            x = (x + y).relu()
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"]), x


@torch.inference_mode()
@pytest.mark.parametrize("dilated", [False, True])
def test_the_network_is_the_published_one(dilated):
    net = example_folder.random_network(1, dilated=dilated)
    patches = torch.rand(2, 1, 90, 90) * 3
    logits, last = published_forward(net.state_dict(), patches, dilated)
    assert last.shape == (2, 2048, 12, 12) == net.forward_features(patches).shape  # stride 8
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    torch.testing.assert_close(net(patches), logits, rtol=1e-4, atol=1e-4)


def test_its_keys_do_not_tell_it_from_the_ordinary_network():
    ordinary = timm.create_model(
        "resnet50", in_chans=1, num_classes=2, stem_type="deep", stem_width=64
    ).state_dict()
    for dilated in (False, True):
        state = patchnets.deep_stem_resnet50(1, dilated=dilated).state_dict()
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in ordinary.items()}


@torch.inference_mode()
def test_the_caller_says_whether_a_checkpoint_is_dilated(attackers):
    path, patches = attackers / "plain" / "loss.pth.tar", torch.rand(1, 1, 90, 90)
    state = patchnets.load_public_attacker(path).state_dict()
    for dilated in (False, True):
        net = patchnets.load_public_attacker(path, dilated)
        expected, _ = published_forward(state, patches, dilated)
        torch.testing.assert_close(net(patches), expected, rtol=1e-4, atol=1e-4)


def test_a_module_prefix_is_accepted(attackers):
    net = patchnets.load_public_attacker(attackers / "plain" / "concate.pth.tar")
    assert net.conv1[0].in_channels == 38 and not net.training


@pytest.fixture
def state(attackers) -> dict:
    saved = torch.load(attackers / "plain" / "loss.pth.tar", weights_only=True)
    return dict(saved["state_dict"])


def refused(tmp_path, saved, message: str) -> None:
    path = tmp_path / "spoilt.pth.tar"
    torch.save(saved, path)
    with pytest.raises(ValueError, match=rf"(?s)spoilt\.pth\.tar .*{message}"):
        patchnets.load_public_attacker(path)


@pytest.mark.parametrize("n", [3, 20])
def test_another_number_of_channels_is_refused(state, tmp_path, n):
    state["conv1.0.weight"] = torch.zeros(64, n, 3, 3)
    refused(tmp_path, {"state_dict": state}, rf"\(64, {n}, 3, 3\); expected .* 1 or 38 channels")


def test_another_number_of_outputs_is_refused(state, tmp_path):
    state |= {"fc.weight": torch.zeros(5, 2048), "fc.bias": torch.zeros(5)}
    refused(tmp_path, {"state_dict": state}, "5 outputs; expected 2")


def test_a_foreign_key_is_refused(state, tmp_path):
    refused(tmp_path, {"state_dict": state | {"aux.weight": torch.zeros(1)}}, r"aux\.weight")


def test_a_missing_key_is_refused(state, tmp_path):
    del state["layer3.5.bn2.weight"]
    refused(tmp_path, {"state_dict": state}, r"layer3\.5\.bn2\.weight")


def test_a_checkpoint_without_state_dict_is_refused(state, tmp_path):
    refused(tmp_path, state, "holds no 'state_dict'; expected")


def test_a_truncated_checkpoint_is_refused(attackers, tmp_path):
    path = tmp_path / "torn.pth.tar"
    content = (attackers / "plain" / "loss.pth.tar").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"torn\.pth\.tar is not a checkpoint torch can load"):
        patchnets.load_public_attacker(path)


# ---- parity with the published order of steps ----------------------------------------------------


def one_patch_at_a_time(root, attacker, representation, argmax, std, dilated, seed, n_patches):
    """Sums of both logits over the patches, float [N,2], in plain loops; names in sorted order."""
    saved = torch.load(attacker, weights_only=True)["state_dict"]
    state = {key.removeprefix("module."): value for key, value in saved.items()}
    labels = [p for group in ("train", "val") for p in sorted((root / group / "label").iterdir())]
    grid = example_folder.GRID
    draws = torch.Generator().manual_seed(seed)
    corners = attacks.patch_corners(len(labels), n_patches, grid, 90, draws).tolist()
    noise, sums = torch.Generator().manual_seed(seed + 1), []
    for path, own in zip(labels, corners, strict=True):
        label = np.array(Image.open(path))
        label = label if label.shape == grid else label[::8, ::8]
        posterior = np.load(next((path.parent.parent / "pred_sgd").glob(f"{path.stem}*.npy")))
        if std:
            drawn = torch.randn((1, *posterior.shape), generator=noise)[0].numpy()
            posterior = np.maximum(posterior + std * drawn, 1e-6)
        posterior = posterior / posterior.sum(0)
        if argmax:
            winner = posterior.argmax(0)
            posterior = np.stack([winner == c for c in range(19)]).astype(float)
        one_hot = np.stack([label == c for c in range(19)]).astype(float)
        maps = np.concatenate([posterior, one_hot])
        if representation == LOSS:
            true = (posterior * one_hot).sum(0)
            maps = np.where(label == 255, 0, -np.log(np.maximum(true, 1e-30)))[None]
            maps = maps / 50 if argmax else maps
        total = 0
        for row, column in own:
            patch = torch.from_numpy(maps[None, :, row : row + 90, column : column + 90]).float()
            total = total + published_forward(state, patch, dilated)[0][0]
        sums.append(total)
    return torch.stack(sums).numpy()


@torch.inference_mode()
@pytest.mark.parametrize(
    ("representation", "argmax", "std", "dilated", "label_scale", "suffix"),
    [
        (LOSS, False, 0.0, False, 1, False),
        (CONCATENATION, False, 0.0, False, 8, True),
        (LOSS, True, 0.0, True, 8, True),
        (CONCATENATION, True, 0.0, False, 1, True),
        (LOSS, False, 0.1, False, 1, False),
        (CONCATENATION, False, 0.3, True, 1, False),
    ],
)
def test_batched_scores_equal_one_patch_at_a_time(
    attackers, tmp_path, representation, argmax, std, dilated, label_scale, suffix
):
    root = example_folder.fake(
        tmp_path / "examples", 2, ("sgd",), label_scale=label_scale, suffix=suffix
    )
    attacker = attackers / ("dilated" if dilated else "plain") / published.ATTACKERS[representation]
    scores, member = published_scores(
        root, attacker, representation, n_patches=2, argmax=argmax, gaussian_std=std,
        dilated=dilated, seed=3,
    )  # fmt: skip
    sums = one_patch_at_a_time(root, attacker, representation, argmax, std, dilated, 3, 2)
    assert member.tolist() == [True, True, False, False]
    assert np.ptp(sums[:, 1]) > 1e-2 * np.abs(sums[:, 1]).mean()  # or anything would agree
    np.testing.assert_allclose(scores["logit1"], sums[:, 1] / 2, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        scores["margin"], (sums[:, 1] - sums[:, 0]) / 2, rtol=1e-4, atol=1e-4
    )


def test_the_table_has_both_scores_of_each_attacker_and_no_blind_baseline(attackers, tmp_path):
    root = example_folder.fake(tmp_path / "examples", 2, ("sgd",))
    text = published.table(root, attackers / "plain", n_patches=1)
    rows = [line for line in text.splitlines() if line.startswith("| SGD")]
    assert [re.split(r" *\| *", row)[3:5] for row in rows] == [
        [r, score]
        for r in (LOSS, CONCATENATION)
        for score in ("member logit, as published", "margin of the logits")
    ]
    assert all(row.endswith("| - | - | 2 / 2 |") for row in rows)
    assert "no blind baseline can be learned" in text
    with pytest.raises(FileNotFoundError, match="has no pred_dpsgd"):
        published.table(root, attackers / "plain", kind="dpsgd")


def test_an_attacker_on_something_else_is_refused(attackers, whole):
    path = attackers / "plain" / "loss.pth.tar"
    with pytest.raises(ValueError, match=r"loss\.pth\.tar has 1 input channels; the concat.* 38"):
        published_scores(whole, path, CONCATENATION)
    with pytest.raises(ValueError, match="representation 'loss map \\+ label'"):
        published_scores(whole, path, "loss map + label")
    with pytest.raises(ValueError, match="argmax and Gaussian noise at once"):
        published_scores(whole, path, LOSS, argmax=True, gaussian_std=0.1)
    with pytest.raises(FileNotFoundError, match=r"neither loss\.pth\.tar nor concate\.pth\.tar"):
        published.public_attackers(whole)


# ---- the folder as scenes and a victim -----------------------------------------------------------


def test_the_folder_becomes_members_and_non_members(whole):
    of = read(whole)
    assert of.members.ids == ["examples/train/train0", "examples/train/train1"]
    assert of.nonmembers.ids == ["examples/val/val0", "examples/val/val1"]
    assert of.members.class_names == CLASSES and of.members.shape == GRID
    label = np.array(Image.open(whole / "val" / "label" / "val1.png"))
    image = np.array(Image.open(whole / "val" / "img" / "val1.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(of.nonmembers[1][1], label)
    np.testing.assert_allclose(of.nonmembers[1][0] * 255, image, atol=1e-4)


def test_finer_labels_and_images_give_the_same_masks(tmp_path, whole):
    fine = example_folder.fake(tmp_path / "fine", 2, grid=GRID, label_scale=8)
    for ours, plain in zip(read(fine).members, read(whole).members, strict=True):
        assert torch.equal(ours[1], plain[1])
        assert ours[0].shape == (3, *GRID)
        assert np.corrcoef(ours[0].flatten(), plain[0].flatten())[0, 1] > 0.9  # antialiased


def test_a_recorded_victim_answers_with_what_is_on_file(whole):
    of = read(whole)
    for kind in ("sgd", "dpsgd"):
        victim = victims.recorded(of, kind)
        images, _ = next(of.nonmembers.batches(2))
        on_file = [np.load(whole / "val" / f"pred_{kind}" / f"val{i}.npy") for i in range(2)]
        found = victims.posteriors(victim, images[[1, 0]])
        np.testing.assert_allclose(found, on_file[::-1], atol=1e-6)
        assert victims.device_of(victim) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"no answer is on file for this image .* 4 images"):
        victim(images + 1e-3)


def test_zeros_come_out_as_a_distribution_and_unnormalised_posteriors_are_refused(folder):
    path = folder / "train" / "pred_sgd" / "train0.npy"
    raw = np.load(path).astype(np.float64)
    raw[3] = 0
    np.save(path, raw / raw.sum(0))
    of = read(folder)
    victim, image = victims.recorded(of, "sgd"), of.members[0][0][None]
    found = victims.posteriors(victim, image)[0].numpy()
    np.testing.assert_allclose(found, raw / raw.sum(0), atol=1e-6)
    assert found[3].max() < 1e-29
    np.save(path, raw * 2)
    with pytest.raises(
        ValueError, match=r"train0\.npy: the sums over the classes are .* to 2, exp"
    ):
        victim(image)
    np.testing.assert_allclose(values(path, normalise=True)[0], raw / raw.sum(0), atol=1e-6)


def test_outputs_pass_a_release(whole):
    release = Release("argmax")
    shown = published.outputs(whole, "dpsgd", lambda posterior: release(posterior, None))
    assert shown.member.tolist() == [True, True, False, False]
    assert set(shown.posteriors.unique().tolist()) == {0, 1}
    wrong = shown.loss_maps.float().unique() * representations.LOSS_SCALE
    assert len(wrong) == 2 and 1 < wrong[1] < 1.5
    plain = published.outputs(whole, "dpsgd")
    assert torch.equal(plain.masks, shown.masks) and len(plain.loss_maps.unique()) > 100


def test_an_edited_folder_is_read_again(folder):
    before = read(folder)
    assert read(folder) is before
    label = folder / "train" / "label" / "train0.png"
    Image.fromarray(np.full(GRID, 7, np.uint8)).save(label)
    after = read(folder)
    assert after.fingerprint != before.fingerprint and (after.members[0][1] == 7).all()


# ---- the experiment and the notebooks on it ------------------------------------------------------


@pytest.fixture
def plan(whole, attackers, tmp_path, monkeypatch) -> studies.Plan:
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "build"))
    plan = experiment.plan_of("quick", examples=whole, attackers=attackers / "plain")
    return replace(plan, progress=False)


def test_the_two_victims_are_the_recorded_ones(plan, whole):
    sgd, dpsgd = (experiment.network(plan, f"victim-{k}") for k in (0, 1))
    assert (sgd.name, dpsgd.name) == ("examples-sgd", "examples-dpsgd")
    assert sgd.sha256 != dpsgd.sha256 and sgd.members.ids == read(whole).members.ids
    for of in (sgd, dpsgd):
        expected = networks.both_miou(of.model, of.members, of.nonmembers)
        assert of.meta["metrics"] == expected and expected["member_miou"] > 0.5
    shown = asking.loss_outputs(plan, dpsgd)
    assert torch.equal(shown.loss_maps, published.outputs(whole, "dpsgd").loss_maps)
    assert "example folder" in experiment.note(plan)
    assert experiment.note(studies.Plan()) == ""


def test_nothing_is_called_dependent_on_drawn_shadows(plan):
    assert experiment.setting_name(plan, "dependent") == "drawn shadows, harbour"
    assert experiment.setting_name(studies.Plan(), "dependent") == "dependent"


def test_the_worlds_are_two_only_with_examples(plan):
    here, home = offers.worlds(plan)
    assert here.victim("").name == "examples-sgd"
    assert here.victim(offers.PUBLISHED.variant).name == "examples-dpsgd"
    assert here.shadow_names("") == home.shadow_names("")
    assert home.plan.examples is None
    here, home = offers.worlds(studies.Plan())
    assert here is home


def test_the_published_attackers_enter_a_contest_with_their_own_threshold(plan, tmp_path):
    root = example_folder.fake(tmp_path / "large", 2, ("sgd",))
    plan = replace(plan, examples=root)
    victim = experiment.network(plan, "victim-0")
    found = standard.published_attacks(plan, victim, 1, 0)
    assert [a.name for a in found] == [
        "patches, loss map (published)",
        "patches, concatenation (published)",
    ]
    for attack in found:
        assert attack.threshold == 0 and attack.patch_scores.shape == (4, 1)
        assert "published threshold" in attack.rule
    again = standard.published_attacks(plan, victim, 1, 0)  # from the cache
    np.testing.assert_array_equal(again[1].scores, found[1].scores)
    other = standard.published_attacks(
        replace(plan, attackers=plan.attackers.parent / "dilated", dilated=True), victim, 1, 0
    )
    assert not np.allclose(other[1].scores, found[1].scores)


def test_parameters_of_the_examples(tmp_path):
    p = parameters.check("05_roc_analysis", examples=str(tmp_path), attackers="")
    assert p.examples == tmp_path and p.attackers is None and p.dilated is False
    with pytest.raises(ValueError, match="parameter dilated is 'yes'"):
        parameters.check("04_defenses", dilated="yes")
    with pytest.raises(ValueError, match="parameter examples is 3"):
        parameters.check("02_structured_loss_map", examples=3)
    for name in ("examples", "attackers"):
        with pytest.raises(FileNotFoundError, match=rf"{name}: no folder .*nowhere; a notebook"):
            experiment.plan_of("quick", **{name: tmp_path / "nowhere"})


def text_of(cell) -> str:
    found = [o.get("data", {}).get("text/markdown", o.get("text", "")) for o in cell.outputs]
    return "\n".join(map("".join, found))


@pytest.mark.slow
def test_the_notebooks_run_on_the_examples(build, attackers, tmp_path):
    root = example_folder.make(tmp_path / "examples", n=12, drawn=ROOT / "data")
    own = tmp_path / "build"
    own.mkdir()
    (own / "cache").symlink_to((build / "cache").resolve())  # what the shadows have shown
    values = {"examples": str(root), "attackers": str(attackers / "plain"), "n_patches": 2}
    values |= {"epochs": 1, "live_images": 20, "max_patches": 2, "n_boot": 200}
    only = ("02", "03", "04", "05")
    execution.run_notebooks(build=own, only=only, overrides=values, cell_timeout=900)
    rows = results.read(own)
    assert all(row.tpr_at_1pct is None for row in rows if row.victim.startswith("examples"))
    roc = [row for row in rows if row.notebook == "05_roc_analysis"]
    assert {row.victim for row in roc} == {"examples-sgd", "examples-dpsgd"}
    assert {row.setting for row in roc} == {"drawn shadows, harbour", "drawn shadows, oldtown"}
    assert "patches, concatenation (published)" in {row.attack for row in roc}
    services = {row.victim for row in rows if row.notebook == "04_defenses"}
    assert {"examples-sgd, argmax", "examples-dpsgd, DP-SGD (published)"} <= services
    assert {"victim-0, no defence, drawn city", "victim-0-dropout, dropout"} <= services
    cells = {}
    for path in (own / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        cells |= {cell.id: text_of(cell) for cell in notebook.cells if cell.cell_type == "code"}
    for told in ("02-03b", "03-06", "cell-08b", "05-10b"):
        assert "Read the blind baseline first" in cells[told], told
    assert "dropout" not in cells["cell-58"] and "DP-SGD (published)" in cells["cell-58"]
    assert "about the drawn city" in cells["cell-38"] and "drawn city" in cells["cell-60b"]
    for told in ("03-42b", "cell-58b"):
        assert "member logit, as published" in cells[told], told


# ---- bad input, one test each --------------------------------------------------------------------


def test_a_wrong_root_names_the_layout(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"train/label: no such folder; expected .*pred_sgd"
    ):
        read(tmp_path)


def test_a_folder_without_predictions_is_refused(folder):
    for group in ("train", "val"):
        for kind in ("sgd", "dpsgd"):
            shutil.rmtree(folder / group / f"pred_{kind}")
    with pytest.raises(FileNotFoundError, match="neither pred_sgd nor pred_dpsgd; expected"):
        read(folder)


def test_a_label_without_prediction_is_refused(folder):
    (folder / "val" / "pred_dpsgd" / "val1.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither val1\.npy nor val1_val\.npy, but .*png"):
        read(folder)


def test_a_label_without_image_is_refused(folder):
    (folder / "train" / "img" / "train1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"img/train1\.png: missing, but .*label"):
        read(folder)


def test_two_predictions_of_one_label_are_refused(folder):
    part = folder / "train" / "pred_sgd"
    shutil.copy(part / "train0.npy", part / "train0_train.npy")
    with pytest.raises(ValueError, match=r"both train0\.npy and train0_train\.npy"):
        read(folder)


def spoil(folder: Path, array: np.ndarray) -> None:
    np.save(folder / "train" / "pred_sgd" / "train0.npy", array)


def good(folder: Path) -> np.ndarray:
    return np.load(folder / "train" / "pred_sgd" / "train0.npy")


@pytest.mark.parametrize("kept", [0, 60, 5000])
def test_a_truncated_npy_is_refused(folder, kept):
    path = folder / "train" / "pred_sgd" / "train0.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"train0\.npy cannot be read as a plain \.npy .*copy it"):
        read(folder)


def test_a_pickled_npy_is_refused(folder):
    np.save(folder / "train" / "pred_sgd" / "train0.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"train0\.npy cannot be read as a plain"):
        read(folder)


def test_an_archive_for_an_array_is_refused(folder):
    buffer = io.BytesIO()
    np.savez(buffer, good(folder))
    (folder / "train" / "pred_sgd" / "train0.npy").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"train0\.npy holds an archive; expected a float array"):
        read(folder)


@pytest.mark.parametrize("change", [lambda a: a[:11], lambda a: a.transpose(1, 2, 0)])
def test_another_number_of_classes_is_refused(folder, change):
    spoil(folder, change(good(folder)))
    with pytest.raises(ValueError, match=r"train0\.npy has 1. classes, .*expected \[19,H,W\]"):
        read(folder)


def test_labels_for_posteriors_are_refused(folder):
    spoil(folder, good(folder).argmax(0))
    with pytest.raises(ValueError, match=r"train0\.npy holds int64 \(16, 32\); expected a float"):
        read(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1])
def test_impossible_values_are_refused_when_they_are_asked_for(folder, value):
    array = good(folder)
    array[4, 3, 2] = value
    spoil(folder, array)
    of = read(folder)
    with pytest.raises(ValueError, match=r"train0\.npy holds NaN, infinite or negative values"):
        victims.recorded(of, "sgd")(of.members[0][0][None])


def test_a_pixel_without_probability_is_refused(folder):
    array = good(folder)
    array[:, 3, 2] = 0
    spoil(folder, array)
    of = read(folder)
    with pytest.raises(ValueError, match=r"train0\.npy has a pixel where no class"):
        victims.recorded(of, "sgd")(of.members[0][0][None])


def test_posteriors_on_another_grid_are_refused(folder):
    np.save(folder / "val" / "pred_dpsgd" / "val0.npy", good(folder)[:, ::2, ::2])
    with pytest.raises(ValueError, match=r"label/val0\.png is 16x32 and .*val0\.npy 8x16 \(height"):
        read(folder)


def test_a_label_of_another_scale_is_refused(folder):
    path = folder / "val" / "label" / "val0.png"
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"label/val0\.png is 32x64 and .*val0\.npy 16x32"):
        read(folder)


def test_label_ids_are_refused(folder):
    path = folder / "train" / "label" / "train1.png"
    label = np.array(Image.open(path))
    label[8:] = 26
    Image.fromarray(label).save(path)
    with pytest.raises(ValueError, match=r"train1\.png has labels 26; .* Are these labelIds\?"):
        read(folder)


def test_a_coloured_label_is_refused(folder):
    path = folder / "train" / "label" / "train1.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(ValueError, match=r"train1\.png: pixel mode RGB"):
        read(folder)


@pytest.mark.parametrize(("group", "name"), [("train", "members"), ("val", "non-members")])
def test_an_empty_group_is_refused(folder, group, name):
    for path in (folder / group / "label").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=rf"{group}/label: no \*\.png, so no {name}"):
        read(folder)


def test_two_images_with_the_same_pixels_are_refused(folder):
    shutil.copy(folder / "train" / "img" / "train0.png", folder / "val" / "img" / "val1.png")
    with pytest.raises(ValueError, match="examples/train/train0 and examples/val/val1 have the sa"):
        read(folder)


def test_an_image_that_is_none_is_refused(folder):
    (folder / "val" / "img" / "val1.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"img/val1\.png: cannot be read as an image"):
        read(folder)


def test_hidden_files_of_other_systems_do_not_count(folder):
    (folder / "val" / "label" / "._val1.png").write_bytes(b"left by an archive")
    assert len(read(folder).nonmembers) == 2


def test_a_recorded_victim_has_no_weights():
    assert not list(Recorded({}).parameters())
