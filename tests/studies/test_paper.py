"""The paper's settings end to end, on miniature trees: train, posteriors, attack."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from trees import bdd100k_tree, cityscapes_tree, mapillary_tree

from segleak_utils import attacks, representations, run, victims
from segleak_utils.running import results
from segleak_utils.studies import paper, shelf

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yml"))
SIZE = (64, 128)

MINIATURE = {
    "setting": "dependent",
    "shadow_data": "cityscapes",
    "victims": ["pspnet"],
    "shadow": "pspnet",
    "training": {
        "encoder": "resnet18",
        "epochs": 1,
        "batch": 4,
        "crop": [64, 64],
        "norm": "group",
        "workers": 0,
    },
    "attack": {"patch": 8, "epochs": 1, "batch": 4, "select_share": 0.3},
    "n_patches": 2,
    "counts": {"victim": [8, 8], "shadow": [8, 8]},
}


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "build"))
    return tmp_path / "build"


def config(folder: Path, **changes) -> Path:
    path = folder / "miniature.yml"
    path.write_text(yaml.safe_dump({**MINIATURE, **changes}))
    return path


def command(*words: object) -> int:
    return run.main(["--no-install", *map(str, words)])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_each_setting_is_sound_and_of_the_published_counts(path):
    setting = paper.load(path)
    assert setting.counts is None and setting.attack.patch == 90 and setting.n_patches == 6
    assert setting.victims == ("upernet", "pspnet", "deeplabv3plus")
    expected = {"dependent": ("dependent", "cityscapes")} | {
        f"independent-{data}": ("independent", data) for data in ("bdd100k", "mapillary")
    }
    assert (setting.setting, setting.shadow_data) == expected[path.stem]
    assert setting.recipe("pspnet").output_stride == 8
    assert setting.names[0] == "shadow-pspnet" and len(setting.names) == 4


def test_every_setting_of_the_paper_has_its_file():
    names = [path.stem for path in CONFIGS]
    assert names == ["dependent", "independent-bdd100k", "independent-mapillary"]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"setting": "independent"}, "independent that it has not"),
        ({"training": {**MINIATURE["training"], "epoch": 3}}, "epoch"),
        ({"attack": {"patches": 3}}, "patches"),
        ({"victims": []}, "victims"),
        ({"shadow": "fcn"}, "shadow"),
        ({"seeds": 1}, "seeds"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(tmp_path, change, said):
    with pytest.raises(ValueError, match=said) as error:
        paper.load(config(tmp_path, **change))
    assert "miniature.yml" in str(error.value)


def test_a_missing_or_broken_setting(tmp_path):
    with pytest.raises(FileNotFoundError, match="there are: none"):
        paper.load(tmp_path / "absent.yml")
    (tmp_path / "b.yml").write_text("a: [")
    with pytest.raises(ValueError, match="not a setting"):
        paper.load(tmp_path / "b.yml")
    (tmp_path / "b.yml").write_text("")
    with pytest.raises(ValueError, match="not a setting"):
        paper.load(tmp_path / "b.yml")


@pytest.mark.slow
def test_from_the_data_set_to_the_table(tmp_path, own, capsys, monkeypatch):
    root = cityscapes_tree(tmp_path / "cs", 24, 8, size=SIZE)
    path = config(tmp_path)
    told = [path, "--root", f"cityscapes={root}"]

    assert command("paper", *told, "attack") == 1  # nothing is trained: says so, no traceback
    assert "shadow-pspnet" in capsys.readouterr().err
    assert command("paper", *told, "posteriors") == 1
    assert "not trained yet" in capsys.readouterr().err

    assert command("paper", *told, "train", "--network", "shadow-pspnet", "--processes", 2) == 0
    assert command("paper", *told, "train") == 0
    assert "shadow-pspnet: trained already" in capsys.readouterr().out
    assert command("paper", *told, "posteriors", "--workers", 2) == 0
    assert "16 of 16 images" in capsys.readouterr().out
    assert command("paper", *told, "posteriors") == 0  # all there
    assert "images to ask" not in capsys.readouterr().out
    assert command("paper", *told, "attack") == 0
    out = capsys.readouterr().out
    folder = own / "paper" / "miniature"
    assert (folder / "table.md").read_text().strip() in out
    assert not list((folder / "checkpoints").glob("*.pt*"))

    rows = results.read()
    names = {row.attack for row in rows}
    assert names == {"blind baseline", "global loss", "per-class logistic regression",
                     "patches, loss map", "patches, concatenation",
                     "all windows, loss map", "all windows, concatenation"}  # fmt: skip
    assert {(r.n_members, r.n_nonmembers, r.victim) for r in rows} == {(8, 8, "victim-pspnet")}

    # a second time: the attackers are loaded, the table is the same
    monkeypatch.setattr(
        "segleak_utils.attacks.train_attacker",
        lambda *_, **__: pytest.fail("trained again"),
    )
    assert command("paper", *told, "attack") == 0
    assert results.read() == rows

    # what the store says is what the network says
    of = paper.run_of(path, [f"cityscapes={root}"], None, None)
    model, _ = victims.load_victim(*of.trained("victim-pspnet"))
    members, _ = of.scenes("victim-pspnet")
    image, mask = members[3]
    posterior = victims.posteriors(model, image[None])[..., ::8, ::8]
    shown = paper.shown(of, "victim-pspnet")
    torch.testing.assert_close(shown.posteriors[3:4].float(), posterior.cpu(), atol=1e-3, rtol=1e-3)
    assert torch.equal(shown.masks[3], mask[::8, ::8].byte())
    loss = representations.structured_loss_map(posterior.cpu(), mask[None, ::8, ::8])
    torch.testing.assert_close(shown.loss_maps[3:4].float(), loss, atol=1e-2, rtol=1e-2)

    # another network's store, another recipe, other seeds: refused, not taken for this one's
    stores = folder / "stores"
    shutil.move(stores / "victim-pspnet", tmp_path / "kept")
    shutil.copytree(stores / "shadow-pspnet", stores / "victim-pspnet")
    assert command("paper", *told, "attack") == 1
    assert "another network" in capsys.readouterr().err
    shutil.rmtree(stores / "victim-pspnet")
    shutil.move(tmp_path / "kept", stores / "victim-pspnet")
    for change, said in (
        ({"training": {**MINIATURE["training"], "epochs": 2}}, "{'epochs': 1}, the setting says"),
        ({"seed": 7}, "were drawn with {'seed': 0"),
        ({"attack": {**MINIATURE["attack"], "lr": 0.9}}, "'lr': 0.9"),
        ({"sizes": {"cityscapes": [32, 64]}}, "{'images': [64, 128]}, the setting says"),
        ({"counts": {"victim": [8, 8], "shadow": [8, 6]}}, "were drawn with"),
        ({"victims": ["pspnet", "pspnet"]}, "named twice"),
    ):
        config(tmp_path, **change)
        assert command("paper", *told, "attack") == 1, change
        assert said in capsys.readouterr().err, change
    config(tmp_path)
    assert command("paper", *told, "attack") == 0

    # other lists than those it was trained on are refused
    lists = tmp_path / "lists"
    shutil.copytree(folder / "splits", lists)
    one, two = (lists / "dependent" / f"cityscapes_{k}_victim.txt"
                for k in ("membership", "non_membership"))  # fmt: skip
    text = one.read_text()
    one.write_text(two.read_text())
    two.write_text(text)
    for step in ("posteriors", "attack"):
        assert command("paper", *told, step, "--lists", lists) == 1
        assert "other members" in capsys.readouterr().err
    one.write_text(text)
    assert command("paper", *told, "posteriors", "--lists", lists) == 1
    error = capsys.readouterr().err
    assert "share 8 images" in error and "cityscapes_membership_victim.txt" in error


@pytest.mark.slow
@pytest.mark.parametrize("data", ["bdd100k", "mapillary"])
def test_the_independent_setting(tmp_path, own, capsys, data):
    """Another grid for the shadow than for the victim; Mapillary's labels converted by command."""
    roots = [f"cityscapes={cityscapes_tree(tmp_path / 'cs', 8, 6, size=SIZE)}"]
    counts = {"victim": [8, 6], "shadow": [8, 8]}
    changes = {"setting": "independent", "shadow_data": data, "counts": counts}
    changes["training"] = {**MINIATURE["training"], "crop": [32, 64]}
    if data == "bdd100k":
        tree = bdd100k_tree(tmp_path / "other", 12, 4, size=(72, 128))  # no multiple of 32
        grid = (9, 16)
    else:
        tree, grid = mapillary_tree(tmp_path / "other", 12, 4), (8, 12)
        changes["sizes"] = {"mapillary": [64, 96]}
        assert command("labels", "--mapillary", tree) == 0
        assert "16 labels converted, 0 were there" in capsys.readouterr().out
    told = [config(tmp_path, **changes), "--root", roots[0], "--root", f"{data}={tree}"]
    for step in ("train", "posteriors", "attack"):
        assert command("paper", *told, step) == 0, capsys.readouterr().err
    of = paper.run_of(told[0], [roots[0], told[-1]], None, None)
    assert paper.shown(of, "shadow-pspnet").masks.shape == (16, *grid)
    assert paper.shown(of, "victim-pspnet").masks.shape == (14, 8, 16)
    assert {row.setting for row in results.read()} == {"independent"}


@pytest.mark.slow
def test_bad_command_lines(tmp_path, own, capsys):
    path = config(tmp_path)
    for words, said in (
        (["--root", "kitti=x"], "NAME=DIR"),
        (["--root", "cityscapes"], "NAME=DIR"),
        ([], "add --root cityscapes=DIR"),
        (["--root", f"cityscapes={tmp_path}"], "leftImg8bit"),
    ):
        assert command("paper", path, *words, "train") == 1
        assert said in capsys.readouterr().err
    root = cityscapes_tree(tmp_path / "cs", 24, 8, size=SIZE)
    words = [path, "--root", f"cityscapes={root}", "train", "--network", "victim-fcn"]
    assert command("paper", *words) == 1
    assert "no network 'victim-fcn'" in capsys.readouterr().err
    half = cityscapes_tree(tmp_path / "half", 10, 8, size=SIZE)
    assert command("paper", path, "--root", f"cityscapes={half}", "train") == 1
    assert "32 are needed" in capsys.readouterr().err
    published = config(tmp_path, counts=None)
    assert command("paper", published, "--root", f"cityscapes={root}", "train") == 1
    assert "half a data set" in capsys.readouterr().err


def test_the_mean_iou_of_a_store_is_that_of_its_predictions(tmp_path):
    posteriors = torch.rand(5, 4, 6, 8).softmax(1).half()
    masks = torch.randint(0, 4, (5, 6, 8), dtype=torch.uint8)
    masks[:, 0] = 255
    shown = attacks.Outputs(torch.zeros(5, 1, 6, 8), masks, np.arange(5) < 2, 4, posteriors)
    chosen = np.array([True, False, True, True, False])
    predicted = posteriors[[0, 2, 3]].argmax(1)
    confusion = victims.confusion_matrix(predicted, masks[[0, 2, 3]].long(), 4)
    assert paper.mean_iou(shown, chosen) == pytest.approx(
        victims.iou_of(confusion).nanmean().item()
    )


@pytest.mark.slow
def test_a_worker_that_fails_is_an_error(tmp_path, own, monkeypatch, capsys):
    root = cityscapes_tree(tmp_path / "cs", 24, 8, size=SIZE)
    monkeypatch.setattr(
        "segleak_utils.victims.processes.launch", lambda *_: [sys.executable, "-c", "exit(3)"]
    )
    words = [config(tmp_path), "--root", f"cityscapes={root}", "train", "--processes", 2]
    assert command("paper", *words) == 1
    assert "exit code 3" in capsys.readouterr().err
    assert shelf.manifest(own / "paper" / "miniature" / "weights") == {}
