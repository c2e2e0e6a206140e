"""What a network said: kept, represented, streamed, and refused where it is none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from toy_outputs import C, Victim, answers, net_of, outputs_of, posteriors_and_masks, scenes_of

from segleak_utils.attacks import ask, represent, score_outputs, stream_scores
from segleak_utils.attacks.patchnets import REPRESENTATIONS, PatchNet, channels
from segleak_utils.data import Scenes
from segleak_utils.representations import argmax_posterior

# ---- representations -----------------------------------------------------------------------------


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_kept_outputs_give_the_representation_of_the_posteriors(representation):
    posterior, masks = posteriors_and_masks()
    expected = represent(posterior, masks, representation)
    assert expected.shape == (6, channels(representation, C), 12, 20)
    shown = outputs_of()
    found = shown.maps(representation, slice(0, 6))
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-3, rtol=1e-3)  # half precision
    some = torch.tensor([4, 1])
    assert torch.equal(shown.maps(representation, some), found[some])


@pytest.mark.parametrize("indices", [np.array([5, 0, 2]), np.arange(6) % 2 == 1])
def test_a_subset_keeps_what_belongs_together(indices):
    shown = outputs_of()
    part, chosen = shown.subset(indices), torch.from_numpy(np.arange(6)[indices])
    assert len(part) == 3 and part.n_classes == C
    assert np.array_equal(part.member, shown.member[indices])
    for representation in REPRESENTATIONS:
        assert torch.equal(
            part.maps(representation, slice(None)), shown.maps(representation, chosen)
        )
    assert outputs_of(keep=False).subset(indices).posteriors is None


def test_unknown_representation_and_posteriors_that_were_not_kept_are_named():
    posterior, masks = posteriors_and_masks()
    for asked in (
        lambda: represent(posterior, masks, "lossmap"),
        lambda: outputs_of().maps("lossmap", slice(2)),
        lambda: channels("lossmap", C),
        lambda: PatchNet("lossmap", C),
    ):
        with pytest.raises(ValueError, match=r"unknown representation 'lossmap'; known: .*loss ma"):
            asked()
    with pytest.raises(ValueError, match="not kept; collect them with keep_posteriors=True"):
        outputs_of(keep=False).maps("concatenation", slice(2))


@pytest.mark.slow
def test_a_streams_scores_are_those_of_the_kept_outputs():
    members, nonmembers = scenes_of(16), scenes_of(7, 1)
    shown = ask(Victim(), members, nonmembers, keep_posteriors=True)
    assert shown.member.tolist() == [True] * 16 + [False] * 7 and shown.loss_maps.shape[0] == 23
    nets = {r: net_of(r) for r in REPRESENTATIONS}
    asked = {"n_patches": 3, "patch": 9, "seed": 4}
    found = stream_scores(answers(Victim(), members, nonmembers), nets, **asked)
    for representation, net in nets.items():
        assert found[representation].shape == (23, 3)
        kept = score_outputs(net, shown, representation, **asked)
        # not exact: outputs are kept in half precision
        np.testing.assert_allclose(found[representation], kept, atol=5e-3)
    several = nets | {("ours", r): net for r, net in nets.items()}  # two who see the same
    again = stream_scores(answers(Victim(), members, nonmembers), several, **asked)
    assert all(np.array_equal(found[r], again[r]) for r in nets)
    assert all(np.array_equal(found[r], again["ours", r]) for r in nets)


def test_outputs_pass_through_a_release():
    members, nonmembers = scenes_of(18), scenes_of(3, 1)
    plain = ask(Victim(), members, nonmembers, keep_posteriors=True)
    seen = []
    shown = ask(
        Victim(),
        members,
        nonmembers,
        keep_posteriors=True,
        release=lambda posterior: seen.append(posterior) or argmax_posterior(posterior),
    )
    assert torch.equal(torch.cat(seen).half(), plain.posteriors)  # each image, once, in order
    assert torch.equal(shown.posteriors, argmax_posterior(torch.cat(seen)).half())
    expected = represent(shown.posteriors.float(), shown.masks.long(), "loss map").half()
    assert torch.equal(shown.loss_maps, expected)
    assert not torch.equal(shown.loss_maps, plain.loss_maps)
    assert torch.equal(shown.masks, plain.masks) and np.array_equal(shown.member, plain.member)
    same = ask(Victim(), members, nonmembers, release=lambda posterior: posterior)
    assert torch.equal(same.loss_maps, plain.loss_maps) and same.posteriors is None


@pytest.mark.parametrize(
    ("release", "message"),
    [
        (lambda p: 2 * p, "sum to one"),
        (lambda p: p - 0.5, "negative probability"),
        (lambda p: p * np.nan, "NaN"),
        (lambda p: p.argmax(1), "must be a floating-point"),
    ],
)
def test_a_release_that_gives_no_posterior_is_refused(release, message):
    with pytest.raises(ValueError, match=message):
        ask(Victim(), scenes_of(3), scenes_of(3, 1), release=release)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_victim_that_puts_out_nan_is_refused(bad):
    victim = Victim(lambda logits: torch.where(logits == logits.max(), bad, logits))
    nets = {"loss map": net_of("loss map")}
    with pytest.raises(ValueError, match="NaN or infinite"):
        stream_scores(answers(victim, scenes_of(3)), nets, n_patches=1, patch=9, seed=0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        ask(victim, scenes_of(3), scenes_of(3, 1))


def test_a_scene_without_a_labelled_pixel_is_named():
    scenes, void = scenes_of(3), scenes_of(1, 1)
    image, mask = void[0]
    pixels = (255 * image[None]).byte().numpy()
    void = Scenes.from_arrays(
        pixels, np.full((1, *mask.shape), 255, np.uint8), ["fog"], void.class_names
    )
    with pytest.raises(ValueError, match="fog: no pixel is labelled"):
        ask(Victim(), scenes, scenes_of(17, 2) + void)


def test_posteriors_that_are_no_distribution_are_refused(monkeypatch):
    posterior, masks = posteriors_and_masks(3)
    nets = {"loss map": net_of("loss map")}
    for spoilt, message in (
        (2 * posterior, "sum to one"),
        (posterior - 0.5, "negative probability"),
        (posterior * np.nan, "NaN"),
        (posterior[:, :3] / posterior[:, :3].sum(1, keepdim=True), "label 3, expected 0..2"),
    ):
        batch = [(spoilt, masks)]
        monkeypatch.setattr(
            "segleak_utils.attacks.outputs.posterior_batches", lambda *_, b=batch, **__: iter(b)
        )
        with pytest.raises(ValueError, match=message):
            stream_scores(iter(batch), nets, n_patches=1, patch=9, seed=0)
        with pytest.raises(ValueError, match=message):
            ask(Victim(), scenes_of(3), scenes_of(3, 1), keep_posteriors=True)


def test_outputs_whose_parts_are_of_other_images_are_refused():
    shown = outputs_of()
    for part, value, found in (
        ("member", shown.member[:-1], r"member is \(5,\); expected \(6,\)"),
        ("member", shown.member.astype(int), "member is int64; expected bool"),
        ("loss_maps", shown.loss_maps[:-1], r"loss_maps is \(5, 1, 12, 20\); expected \(6, 1"),
        ("references", shown.loss_maps[:, :, 1:], "references is"),
        ("posteriors", shown.posteriors[:, :3], r"posteriors is \(6, 3, 12, 20\); expected \(6, 4"),
    ):
        with pytest.raises(ValueError, match=found):
            replace(shown, **{part: value})


# ---- memory --------------------------------------------------------------------------------------

ASKING = """
import resource, sys
from pathlib import Path
import torch
from segleak_utils import attacks, data
torch.set_num_threads(1)
root, ask = Path(sys.argv[1]), sys.argv[2]
of = data.folder(root / "img", root / "lab", n_classes=19)
none = of.subset(range(0))
class Model(torch.nn.Module):
    def forward(self, images):
        return torch.nn.functional.pad(images, (0, 0, 0, 0, 0, 16)) * 5 - 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
if ask == "ask":
    n = len(attacks.ask(Model(), of, none))
else:
    parts = attacks.ask_in_parts(Model(), of, none)
    n = sum(len(attacks.global_loss_scores(part)) for part in parts)
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize("way", ["ask", "ask_in_parts"])
def test_asking_about_large_images_takes_less_than_a_gigabyte(tmp_path, way):
    for part in ("img", "lab"):
        (tmp_path / part).mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        small = rng.integers(0, 255, (8, 16, 3), np.uint8)
        Image.fromarray(small).resize((1024, 512)).save(tmp_path / "img" / f"{i:03d}.png")
        Image.fromarray(np.full((512, 1024), i % 19, np.uint8)).save(
            tmp_path / "lab" / f"{i:03d}.png"
        )
    command = [sys.executable, "-c", ASKING, str(tmp_path), way]
    done = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    # 40 MB of posteriors an image; 16 images at a time take 3 GB
    assert int(done[0]) == 40 and float(done[1]) < 1000, done
