"""The command: audit.yml and its twins, what is said of wrong keys, init, and exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from toy_audits import C, data_of, scene, write_lists

from segleak_utils.audit import command, reading
from segleak_utils.audit.beginning import begun, text_of
from segleak_utils.audit.config import Audit
from segleak_utils.audit.pictures import listed

NET = "from toy_audits import Colours\nnet = Colours()\n"


def lists(root, n=30):
    write_lists(root, n=n)
    (root / "net_for_command.py").write_text(NET)
    return [
        "--model", "net_for_command:net", "--returns", "logits", "--classes", str(C), "--quiet",
        "--members", "members/images", "members/masks",
        "--nonmembers", "nonmembers/images", "nonmembers/masks",
        "--relabellings", "40", "--resamples", "200",
    ]  # fmt: skip


def test_one_line_is_an_audit(tmp_path, capsys):
    assert command.main(lists(tmp_path), tmp_path) == 0
    shown = capsys.readouterr().out
    assert "No evidence was found" in shown and "blind baseline" in shown
    assert str(tmp_path / "audit" / "report.html") in shown
    content = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert content["audited"]["command"].startswith(f"{command.COMMAND} --model net_for_command")
    assert content["audited"]["config"]["data"]["members"]["images"].endswith("members/images")


def test_an_audit_of_a_model_of_ones_own_does_not_wait_for_libraries_of_networks():
    heavy = {"timm", "torchvision", "segmentation_models_pytorch", "sklearn", "matplotlib"}
    code = f"import sys, segleak_utils.audit.command; print(sorted({heavy!r} & sys.modules.keys()))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"


def test_the_gate_is_an_exit_code(tmp_path, capsys):
    assert command.main(lists(tmp_path), tmp_path) == 0
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())["attacks"][0]["auc"]
    for limit, code in ((found["high"] + 0.01, 0), (found["low"] - 0.01, 3), (found["value"], 4)):
        line = [*lists(tmp_path), "--fail-above", f"auc={limit:.4f}"]
        assert command.main(line, tmp_path) == code
        assert f"auc above {limit:.4f}"[:13] in capsys.readouterr().out
    assert command.main([*lists(tmp_path), "--fail-above", "tpr_at_0.1pct=0.5"], tmp_path) == 4


def test_a_file_and_options_together(tmp_path, capsys):
    """Paths in the file start where it lies, those typed where the command is."""
    arguments = lists(tmp_path / "there")
    told = {
        "name": "mine", "out": "result",
        "data": {"n_classes": C, "groups": r"^(.\d\d)",
                 "members": {"images": "members/images", "masks": "members/masks"},
                 "nonmembers": {"images": "gone", "masks": "nonmembers/masks"}},
        "answers": {"model": "net_for_command:net", "returns": "logits"},
    }  # fmt: skip
    (tmp_path / "there" / "audit.yml").write_text(yaml.safe_dump(told))
    quick = arguments[-4:]
    line = ["there/audit.yml", "--data.nonmembers.images", "there/nonmembers/images", "--quiet"]
    assert command.main([*line, *quick, "--data.grid", "512"], tmp_path) == 0
    content = json.loads((tmp_path / "there" / "result" / "audit.json").read_text())
    assert content["audited"]["name"] == "mine" and content["audited"]["grid"] == [12, 16]
    assert content["audited"]["config"]["data"]["grid"] == 512
    assert content["audited"]["n_groups"] == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n  n_clases: 3\n", r"unknown key data.n_clases \(line 2\); did you mean n_cl"),
        ("dataa: 3\n", r"unknown key dataa \(line 1\); did you mean data?"),
        ("data:\n  n_classes: many\n", r"data.n_classes \(line 2\) is 'many'; expected"),
        ("level: 2\n", r"level \(line 1\) is 2; expected less than 1"),
        ("answers: {model: 'a:b'}\n", "answers.returns: say what the model gives"),
        ("answers: {model: 'a:b', labels: x, returns: logits}\n", "one of model, file"),
        ("data: {members: {images: a}}\n", "members and nonmembers are needed, both"),
        ("fail_above: {auk: 0.5}\n", "no measure 'auk'"),
        ("data: {}\ndata: {}\n", "line 1|comes twice"),
        ("- a\n", "holds a list; expected keys"),
        ("answers: {mean: [0, 0, 0], std: [0, 0, 0]}", r"answers.std is \[0.0, 0.0, 0.0\]; exp"),
        ("a: [\n", "is no YAML"),
        ("name: \udcff\n", r"audit.yml: is no YAML .*decode"),
        ("references:\n  - modell: x\n", r"references.0.modell \(line 2\); did you mean model"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "audit.yml").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        reading.read(tmp_path / "audit.yml")


@pytest.mark.parametrize("text", ["data: 5", "data: [5]", "data: x"])
def test_an_option_within_what_is_no_part_is_refused(tmp_path, text):
    (tmp_path / "audit.yml").write_text(text)
    with pytest.raises(ValueError, match=r"--data.grid: data in the file is no such thing"):
        reading.read(tmp_path / "audit.yml", {"data.grid": 512})


def test_what_cannot_be_run_exits_with_1_and_a_sentence(tmp_path, capsys):
    assert command.main(["gone.yml"], tmp_path) == 1
    assert "gone.yml: no such file; `audit init` writes one" in capsys.readouterr().err
    assert command.main([*lists(tmp_path), "--members", "a", "b", "c"], tmp_path) == 1
    assert "3 folders; expected images, and masks" in capsys.readouterr().err
    assert command.main([*lists(tmp_path), "--answers.device", "tpu"], tmp_path) == 1
    assert "tpu" in capsys.readouterr().err
    for limit, message in (("", "no limit given"), ("auc=.6,auc=.9", "auc comes twice")):
        assert command.main([*lists(tmp_path), "--fail-above", limit], tmp_path) == 1
        assert f"fail_above: {message}" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert command.main([*lists(tmp_path), "--out", "file"], tmp_path) == 1
    assert "segleak: [Errno" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        command.main(["--dataa.grid", "3"], tmp_path)
    assert caught.value.code == 2


def test_options_that_are_text_are_taken_as_they_stand(tmp_path):
    line = ["--name", "007", "--data.groups", "[a-z]", "--data.pattern", "{stem}.*",
            "--answers.output", "1", "--answers.model", "null", "--returns", "logits",
            "--data.void", "[0, 3]", "--out", "2026"]  # fmt: skip
    options = command.parser().parse_args(line)
    told = reading.read(None, command.overrides_of(options, tmp_path))
    assert told.name == "007" and told.data.groups == "[a-z]" and told.data.pattern == "{stem}.*"
    assert told.answers.output == 1 and told.data.void == (0, 3) and told.out == tmp_path / "2026"


def test_a_level_that_the_relabellings_cannot_tell_is_refused(tmp_path, capsys):
    line = [*lists(tmp_path), "--level", "0.999"]
    assert command.main(line, tmp_path) == 1
    assert "40 relabellings cannot tell what happens in one of 1000 audits" in (
        capsys.readouterr().err
    )
    line = [*lists(tmp_path), "--level", "0.995", "--relabellings", "400", "--resamples", "399"]
    assert command.main(line, tmp_path) == 1
    assert "interval of level 0.995; it needs at least 400" in capsys.readouterr().err


def test_every_key_has_a_twin_and_a_description():
    options = {text for action in command.parser()._actions for text in action.option_strings}
    for key, description in reading.keys().items():
        assert key == "fail_above" or f"--{key}" in options
        assert isinstance(description, str)


def test_the_shipped_schemas_are_what_the_models_say():
    for name, content in reading.shipped().items():
        found = json.loads((reading.SCHEMAS / name).read_text(encoding="utf-8"))
        assert found == json.loads(json.dumps(content)), f"{name}: run reading.write_schemas()"


# ---- init ----------------------------------------------------------------------------------------


def test_init_writes_a_file_that_can_be_read_and_run(tmp_path, capsys):
    write_lists(tmp_path / "x", n=30)
    for ours, theirs in (("members", "train"), ("nonmembers", "val")):
        (tmp_path / "x" / ours).rename(tmp_path / "x" / theirs)
    assert command.main(["init", "x"], tmp_path) == 0
    assert "audit.yml written" in capsys.readouterr().out
    told = reading.read(tmp_path / "x" / "audit.yml")
    assert told.data.n_classes == C and told.data.voids == (255,)
    assert str(told.data.members.images) == "train/images"
    (tmp_path / "x" / "net_for_init.py").write_text(NET)
    line = ["x/audit.yml", "--answers.model", "net_for_init:net", "--quiet"]
    assert command.main([*line, "--relabellings", "40", "--resamples", "200"], tmp_path) == 0
    assert command.main(["init", "x"], tmp_path) == 1
    assert "is there already; it is not written over" in capsys.readouterr().err


def test_init_finds_folders_of_other_layouts(tmp_path, camvid_root):
    write_lists(tmp_path / "a", n=3)
    for kind in ("images", "masks"):
        (tmp_path / "b" / kind).mkdir(parents=True)
        for ours, theirs in (("members", "train"), ("nonmembers", "test")):
            shutil.copytree(tmp_path / "a" / ours / kind, tmp_path / "b" / kind / theirs)
    told = Audit.model_validate(yaml.safe_load(text_of(tmp_path / "b")))
    assert str(told.data.members.images) == "images/train"
    told = Audit.model_validate(yaml.safe_load(text_of(camvid_root)))
    assert str(told.data.nonmembers.masks) == "testannot" and told.data.n_classes == 12


@pytest.mark.parametrize(
    ("image", "masks", "lines"),
    [
        ("{}.png", ["{}.png"], []),
        ("{}.png", ["{}_mask.png"], ['pattern: "{stem}_mask.png"']),
        ("{}.png", ["gt_{}.png"], ['pattern: "gt_{stem}.png"']),
        (
            "{}_leftImg8bit.png",
            ["{}_gtFine_color.png", "{}_gtFine_instanceIds.png", "{}_gtFine_labelIds.png"],
            ['pattern: "{stem}_gtFine_labelIds.png"', 'image_pattern: "{stem}_leftImg8bit.*"'],
        ),
        ("{}_image.png", ["{}.png"], ['pattern: "{stem}.png"', 'image_pattern: "{stem}_image.*"']),
        ("{}.png", ["other_{}x.tif"], ['pattern: "other_{stem}x.tif"']),
        ("{}.png", ['"{}" a.png'], ['pattern: "\\"{stem}\\" a.png"']),
    ],
)
def test_init_finds_how_masks_are_named(tmp_path, image, masks, lines):
    write_lists(tmp_path, n=3)
    for path in sorted(tmp_path.glob("*/masks/*.png")):
        for name in masks:
            shutil.copy(path, path.with_name(f"{name.format(path.stem)}.part"))
        path.unlink()
    for path in sorted(tmp_path.glob("*/masks/*.part")):
        if path.stem.endswith(".tif"):
            Image.open(path).save(path.with_suffix(""))
            path.unlink()
        else:
            path.rename(path.with_suffix(""))
    for path in sorted(tmp_path.glob("*/images/*.png")):
        path.rename(path.with_name(image.format(path.stem)))
    found = [line.strip() for line in text_of(tmp_path).splitlines() if "pattern" in line]
    assert found == lines
    told = reading.read(begun(tmp_path))
    assert len(listed(told.data, tmp_path)) == 6


def test_init_finds_a_stem_that_is_in_the_masks_names_twice(tmp_path):
    for part in ("train, old", "test #1"):
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
        for i in (1, 2):
            image, mask = scene(i)
            Image.fromarray(image).save(tmp_path / part / "images" / f"{i}.png")
            Image.fromarray(mask).save(tmp_path / part / "masks" / f"m12_{i}.png")
    told = reading.read(begun(tmp_path))
    assert told.data.pattern == "m12_{stem}.png" and len(listed(told.data, tmp_path)) == 4


@pytest.mark.parametrize("name", ["x.npy", "x.png"])
def test_init_says_what_is_no_image(tmp_path, name):
    write_lists(tmp_path, n=3)
    path = tmp_path / "members" / "images" / name
    path.write_text("x")
    if name == "x.npy":
        assert "members" in text_of(tmp_path)
    else:
        with pytest.raises(ValueError, match=r"x.png: cannot be read as an image"):
            text_of(tmp_path)


def test_init_knows_colours_and_binary_masks_and_says_what_it_did_not_find(tmp_path):
    write_lists(tmp_path / "c", n=3)
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    for path in (tmp_path / "c").glob("*/masks/*.png"):
        labels = np.array(Image.open(path))
        Image.fromarray(table[np.where(labels == 255, 0, labels)]).save(path)
    told = Audit.model_validate(yaml.safe_load(text_of(tmp_path / "c")))
    assert told.data.colours == {"#000000": 0, "#0000ff": 1, "#00ff00": 2, "#ff0000": 3}
    for path in (tmp_path / "c").glob("*/masks/*.png"):
        Image.fromarray(255 * (np.array(Image.open(path)).max(2) > 0).astype(np.uint8)).save(path)
    told = Audit.model_validate(yaml.safe_load(text_of(tmp_path / "c")))
    assert told.data.mapping == {0: 0, 255: 1} and told.data.n_classes == 2
    (tmp_path / "empty").mkdir()
    path = begun(tmp_path / "empty")
    assert "not found: fill it in" in path.read_text() and reading.read(path).data.empty
    with pytest.raises(FileNotFoundError):
        begun(tmp_path / "gone")
    assert data_of(tmp_path).n_classes == C
