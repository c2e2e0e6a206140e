"""A whole audit: the verdict on networks whose truth is known, and every refusal."""

from __future__ import annotations

import hashlib
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_audits import C, Colours, data_of, write_lists

from segleak_utils import audit as audits
from segleak_utils.attacks.contests import GLOBAL
from segleak_utils.attacks.references import CALIBRATED, LIRA, RMIA
from segleak_utils.audit import auditing, estimates, verdict
from segleak_utils.audit.company import named
from segleak_utils.audit.config import Audit
from segleak_utils.audit.pictures import Picture

QUICK = {"relabellings": 40, "resamples": 200}


class Knows(Colours):
    """Surer on the images that it knows, by `more`; it knows them by their pixels."""

    def __init__(
        self, known: list[torch.Tensor], more: float, scale: float = 8.0, tilt: float = 0.0
    ) -> None:
        super().__init__(scale, tilt)
        self.keys, self.more = {self.key(image) for image in known}, more

    def key(self, image: torch.Tensor) -> str:
        return hashlib.sha256((255 * image).round().byte().numpy().tobytes()).hexdigest()

    def forward(self, images):
        sure = torch.tensor([self.more if self.key(image) in self.keys else 1 for image in images])
        return super().forward(images) * sure.view(-1, 1, 1, 1)

    def get_extra_state(self):
        return torch.tensor([len(self.keys), self.more, hash(str(sorted(self.keys))) % 2**31])

    def set_extra_state(self, state):
        pass


def images_in(folder) -> list[torch.Tensor]:
    arrays = (np.array(Image.open(path)) for path in sorted(folder.glob("*.png")))
    return [torch.from_numpy(a.transpose(2, 0, 1)).float() / 255 for a in arrays]


def told(root, **more):
    usual = {"data": data_of(root), "answers": {"returns": "logits"}, "out": root / "out"}
    return Audit(**(QUICK | usual | more))


def run(root, model=None, *, n=40, **more):
    write_lists(root, n=n)
    return audits.audit(told(root, **more), model=model or Colours(), progress=False)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """A network that is twice as sure on its members, and what the audit says of it."""
    root = tmp_path_factory.mktemp("leaky")
    write_lists(root, n=60)
    model = Knows(images_in(root / "members" / "images"), 2)
    return root, model, run(root, model, n=60, fail_above={"auc": 0.6, "tpr_at_10pct": 0.2})


# ---- verdicts on networks whose truth is known ---------------------------------------------------


def test_a_leak_is_found_and_fails_the_gate(leaky):
    _, _, found = leaky
    of = found.findings
    assert of.verdict.kind == "leak" and of.headline == GLOBAL and found.exit_code == 3
    assert of.attacks[0].auc.low > 0.8 and not of.blind.differs
    assert [limit.decision for limit in of.gate.limits] == ["fails", "fails"]
    assert sum(image.flagged for image in of.images) > 10
    assert not any(image.flagged for image in of.images if not image.member)
    assert "which images it was trained on" in of.verdict.found
    assert of.audited.miou_members > of.audited.miou_nonmembers - 0.05


def test_a_network_that_never_saw_the_images_is_not_accused(tmp_path):
    found = run(tmp_path, fail_above={"auc": 0.9})
    assert found.findings.verdict.kind == "no evidence" and found.exit_code == 0
    assert "absence of evidence is weak" in found.findings.verdict.found
    assert any("references" in of.needs for of in found.findings.not_run)


def test_a_limit_within_the_interval_cannot_be_decided(tmp_path):
    found = run(tmp_path, fail_above={"auc": 0.5, "tpr_at_1pct": 0.05})
    decisions = {of.measure: of.decision for of in found.findings.gate.limits}
    assert decisions == {"auc": "undecided", "tpr_at_1pct": "undecided"} and found.exit_code == 4


def test_lists_that_differ_by_themselves_make_the_audit_invalid(tmp_path):
    write_lists(tmp_path, n=40)
    for path in (tmp_path / "nonmembers" / "images").glob("*.png"):
        brighter = np.array(Image.open(path)).astype(float) * 1.3
        Image.fromarray(brighter.clip(0, 255).astype(np.uint8)).save(path)
    found = run(tmp_path, fail_above={"auc": 0.6})
    assert found.findings.blind.differs and found.findings.verdict.kind == "invalid"
    assert (
        found.exit_code == 5
        and "told apart without asking the model" in found.findings.verdict.found
    )


def test_non_members_that_were_stored_anew_are_noticed(tmp_path):
    write_lists(tmp_path, n=60, size=(64, 96))
    for path in (tmp_path / "nonmembers" / "images").glob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"), quality=60)
        path.unlink()
    found = run(tmp_path, n=0)
    assert found.findings.blind.differs
    assert any(".png files and the non-members .jpg" in w for w in found.findings.verdict.warnings)


def test_swapped_lists_are_said_to_look_swapped(leaky, tmp_path):
    root, model, _ = leaky
    data = data_of(root)
    swapped = data.model_copy(update={"members": data.nonmembers, "nonmembers": data.members})
    of = told(tmp_path, data=swapped, fail_above={"auc": 0.6})
    found = audits.audit(of, model=model, progress=False)
    assert found.findings.verdict.kind == "invalid" and found.exit_code == 5
    assert "may be swapped" in found.findings.verdict.found


def test_null_audits_hold_a_half_in_95_of_100():
    """200 audits of scores that tell nothing; three standard errors of .95 are .046."""
    rng, held = np.random.default_rng(4), 0
    member = np.arange(220) < 100
    for _ in range(200):
        scores = rng.gamma(2, 1, 220)
        area = estimates.area(scores, member, None, 0.95)
        held += area.low <= 0.5 <= area.high
    assert 0.93 <= held / 200 <= 0.97


@pytest.mark.slow
def test_twenty_null_audits_from_end_to_end(tmp_path):
    """Networks that saw neither list: of 20 intervals 18 hold .5, and 18 of blind baselines.

    (Of 200 such audits from seed 0 on, 191 intervals of the attack hold .5.)
    """
    held = np.zeros(2)
    for seed in range(20, 40):
        root = tmp_path / str(seed)
        write_lists(root, n=20, start=0, offset=50 * seed)
        found = run(root, Colours(4 + seed % 20 / 4), n=0, releases=False, seed=seed)
        of = found.findings
        for k, area in enumerate((of.attacks[0].auc, of.blind.auc)):
            held[k] += area.low <= 0.5 <= area.high
    assert (held >= 18).all()


# ---- references and shadows ----------------------------------------------------------------------


def reference_files(root, name, model, lists=("members", "nonmembers"), half=True) -> dict:
    """The answers of a reference on file, in a folder for each list."""
    for part in lists:
        (root / name / part).mkdir(parents=True)
        paths = sorted((root / part / "images").glob("*.png"))
        for path, image in zip(paths, images_in(root / part / "images"), strict=True):
            posterior = model(image[None]).softmax(1)[0].detach()
            stored = posterior.half() if half else posterior
            np.save(root / name / part / f"{path.stem}.npy", stored.numpy())
    return {"posteriors": root / name, "returns": "probabilities"}


def test_references_sharpen_the_attack(leaky, tmp_path):
    root, _, _ = leaky
    model = Knows(images_in(root / "members" / "images"), 1.15)
    plain = audits.audit(told(root, out=tmp_path / "a"), model=model, progress=False)
    files = [reference_files(root, f"ref{k}", Colours(7 + k, tilt=(k + 1) / 20)) for k in range(3)]
    with_them = told(root, out=tmp_path / "b", references=files)
    found = audits.audit(with_them, model=model, progress=False)
    of = {attack.name: attack.auc for attack in found.findings.attacks}
    assert (
        found.findings.headline == RMIA and LIRA in of and found.findings.audited.n_references == 3
    )
    assert of[RMIA].value > plain.findings.attacks[0].auc.value + 0.1
    names = {row.attacker for row in found.findings.releases}
    assert names == {"naive", "adaptive"} and found.exposed[0].references is not None


def test_a_reference_that_is_the_model_but_for_a_release_is_left_out_there(tmp_path):
    write_lists(tmp_path, n=12)
    files = [reference_files(tmp_path, "copy", Colours(scale=9.0), half=False)]
    found = run(tmp_path, Colours(scale=8.0), n=12, references=files)
    rows = {(row.release, row.attacker) for row in found.findings.releases}
    assert ("argmax", "naive") in rows and ("argmax", "adaptive") not in rows
    assert ("temperature 4", "adaptive") in rows


def test_a_reference_that_saw_an_image_is_not_compared_with_there(leaky, tmp_path):
    root, _, _ = leaky
    names = [f"m{i:03}" for i in range(60)]
    (tmp_path / "seen.txt").write_text("\n".join(names[:30]))
    (tmp_path / "all.txt").write_text("\n".join(names), encoding="utf-8-sig")  # as Excel does
    shutil.rmtree(root / "saw", ignore_errors=True)
    one = reference_files(root, "saw", Colours(6, tilt=-1))
    two = {"posteriors": root / "ref0", "returns": "probabilities"}
    if not (root / "ref0").exists():
        reference_files(root, "ref0", Colours(7, tilt=1))

    def of(*references):
        return audits.audit(told(root, out=tmp_path / "o", references=references, releases=False),
                            model=Colours(), progress=False).findings  # fmt: skip

    both = of(one | {"trained_on": tmp_path / "seen.txt"}, two)
    assert RMIA in {attack.name for attack in both.attacks}
    alone = of(one | {"trained_on": tmp_path / "all.txt"})
    assert alone.headline == GLOBAL
    assert any("some were seen by all" in missing.needs for missing in alone.not_run)


def test_names_of_what_was_trained_on_are_found_however_they_are_written(tmp_path, monkeypatch):
    image = Path("images/e\u0301.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / image).touch()
    monkeypatch.chdir(tmp_path / "there")
    picture = Picture("e\u0301", ".." / image, None, True)
    name = "images/\u00e9.png"
    for one in (name, name.removesuffix(".png"), "\u00e9", f"../{name}", str(tmp_path / name)):
        assert named(picture, frozenset({one}))
    assert not named(picture, frozenset({"e.png"}))


def test_a_reference_of_label_maps_is_none_for_probabilities(leaky, tmp_path):
    root, _, _ = leaky
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(tmp_path / "labels" / "m000.png")
    with pytest.raises(ValueError, match=r"references, 1: has label maps only"):
        audits.audit(
            told(root, out=tmp_path, references=[{"labels": tmp_path / "labels"}]),
            model=Colours(), progress=False,
        )  # fmt: skip


def test_a_shadow_teaches_the_structured_attack(leaky, tmp_path, monkeypatch):
    """The shadow knows its own members as the audited model knows its own."""
    root, _, _ = leaky
    write_lists(tmp_path, n=60, offset=500)
    model = Knows(images_in(root / "members" / "images"), 1.3)
    shadow = Knows(images_in(tmp_path / "members" / "images"), 1.3, 7.5, tilt=1)
    module = types.ModuleType("for_audit_shadow")
    module.net = shadow
    monkeypatch.setitem(sys.modules, "for_audit_shadow", module)
    pairs = data_of(tmp_path)
    reference = {
        "model": "for_audit_shadow:net", "returns": "logits",
        "shadow": {"members": pairs.members, "nonmembers": pairs.nonmembers},
    }  # fmt: skip
    of = told(root, out=tmp_path / "o", references=[reference])
    found = audits.audit(of, model=model, progress=False).findings
    assert found.headline == CALIBRATED and found.audited.n_shadows == 1
    areas = {attack.name: attack.auc for attack in found.attacks}
    assert areas[CALIBRATED].low > 0.7
    assert all(image.p_shadows is not None for image in found.images)
    naive, adaptive = ([r.auc.value for r in found.releases if r.attacker == who and
                        r.release == "argmax"] for who in ("naive", "adaptive"))  # fmt: skip
    assert adaptive[0] >= naive[0] - 0.1
    bad = reference | {"shadow": {"members": data_of(root).members, "nonmembers": pairs.nonmembers}}
    with pytest.raises(ValueError, match="must not learn from the images that it is tried on"):
        audits.audit(told(root, out=tmp_path / "o", references=[bad]), model=model, progress=False)


# ---- owners --------------------------------------------------------------------------------------


def test_intervals_over_owners_are_wider_and_the_report_says_why(leaky, tmp_path):
    root, model, plain = leaky
    data = data_of(root, groups=r"^(.\d\d)")
    found = audits.audit(told(tmp_path, data=data), model=model, progress=False).findings
    area = found.attacks[0].auc
    assert area.how == "DeLong over groups" and area.n_member_groups == 6
    assert len(found.groups) == 12 and found.groups[0].exposure > 0.8
    text = " ".join(found.verdict.warnings)
    assert "images of one owner stand or fall together" in text and "only 6 owners" in text
    assert plain.findings.groups == ()


# ---- label maps, scores --------------------------------------------------------------------------


def test_label_maps_alone_can_be_audited(leaky, tmp_path):
    root, _, _ = leaky
    for part in ("members", "nonmembers"):
        (tmp_path / "said" / part).mkdir(parents=True)
        for path in (root / part / "images").glob("*.png"):
            labels = np.array(Image.open(root / part / "masks" / path.name))
            wrong = np.random.default_rng(0).random(labels.shape) < (
                0.05 if part[0] == "m" else 0.3
            )
            labels = np.where(wrong | (labels == 255), 0, labels)
            Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "said" / part / path.name)
    answers = {"labels": tmp_path / "said"}
    found = audits.audit(told(tmp_path, data=data_of(root), answers=answers), progress=False)
    of = found.findings
    assert of.verdict.kind == "leak" and of.headline == "share of right pixels"
    assert of.releases == () and any(GLOBAL in missing.name for missing in of.not_run)
    found.write()
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_table_of_losses_is_audited_without_images(tmp_path):
    rng, lines = np.random.default_rng(0), ["image,member,group,loss,reference_1,reference_2"]
    for i in range(200):
        hard = rng.gamma(2, 1)
        own = hard * (0.6 if i < 100 else 1) * rng.uniform(0.9, 1.1)
        theirs = [hard * rng.uniform(0.9, 1.1) for _ in range(2)]
        row = [f"i{i}", int(i < 100), f"g{i // 4}", own, *theirs]
        lines.append(",".join(map(str, row)))
    (tmp_path / "scores.csv").write_text("\n".join(lines))
    of = Audit(answers={"scores": "scores.csv"}, out="out", fail_above={"auc": 0.6}, **QUICK)
    found = audits.audit(of, base=tmp_path, progress=False)
    assert found.findings.headline == RMIA and found.exit_code == 3
    assert found.findings.blind is None and "could not be tested" in found.findings.verdict.sure
    assert found.findings.attacks[0].auc.how == "DeLong over groups"
    assert found.write() == tmp_path / "out" / "report.html"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,member\na,1\n", "expected either loss or score"),
        ("image,member,loss,score\na,1,1,1\n", "expected either loss or score"),
        ("image,member,loss\na,1,x\nb,0,1\n", "line 2, loss is 'x'"),
        ("image,member,loss\na,1,nan\nb,0,1\n", "line 2, loss is 'nan'"),
        ("image,member,loss\na,1,-1\nb,0,1\n", "losses are at least 0"),
        ("image,member,loss\na,1,1\na,0,1\n", "image a comes twice"),
        ("image,member,loss\na,1,1\nb,1,1\n", "all images are members"),
        ("image,member,loss,note\na,1,1,x\nb,0,1,x\n", "unknown columns note"),
        ("image,member,loss\na,1,1\nb,0,1\n", "1 members and 1 non-members are too few"),
        ("image,member,loss,reference_1\n" + "".join(f"i{k},{k % 2},{k},{k}\n" for k in range(30)),
         "the victim cannot be its own reference"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_are_refused(tmp_path, text, message):
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        audits.audit({"answers": {"scores": "scores.csv"}}, base=tmp_path, progress=False)


# ---- refusals ------------------------------------------------------------------------------------


def test_the_same_picture_in_both_lists_is_refused(tmp_path):
    write_lists(tmp_path, n=12)
    shutil.copy(tmp_path / "members/images/m003.png", tmp_path / "nonmembers/images/n007.png")
    with pytest.raises(ValueError, match=r"1 pictures are in both lists \(m003 and n007\)"):
        run(tmp_path, n=12)


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="9 members and 9 non-members are too few to decide"):
        run(tmp_path, n=9)


def test_a_limit_of_no_measure_is_refused_before_anything_is_asked(tmp_path):
    model = Colours()
    with pytest.raises(ValueError, match="no measure 'acc'; there are auc, tpr_at_10pct"):
        run(tmp_path, model, fail_above={"acc": 0.6})
    assert model.images == 0


def test_an_untold_number_of_classes_is_asked_for(tmp_path):
    write_lists(tmp_path, n=12)
    data = data_of(tmp_path).model_copy(update={"n_classes": None})
    with pytest.raises(ValueError, match="give n_classes, or classes"):
        audits.audit(told(tmp_path, data=data), model=Colours(), progress=False)


# ---- again ---------------------------------------------------------------------------------------


def test_a_second_audit_asks_nobody_and_says_the_same(leaky):
    root, model, first = leaky
    before = model.images
    again = run(root, model, n=60, fail_above={"auc": 0.6, "tpr_at_10pct": 0.2})
    assert model.images == before
    change = {"audited": first.findings.audited.model_copy(update={"seconds": 0.0})}
    one, two = (of.findings.model_copy(update=change) for of in (first, again))
    assert one == two
    assert first.write().read_bytes()


def test_a_network_whose_code_was_edited_is_asked_anew(tmp_path):
    """Its weights are the same; answers that are kept from before would be another network's."""

    class Own(Colours):
        def forward(self, images):
            return super().forward(images)

    write_lists(tmp_path, n=20)
    how = {"model": Own(), "progress": False}
    first = audits.audit(told(tmp_path, releases=False), **how).scores[GLOBAL]
    Own.forward = lambda self, images: Colours.forward(self, images.flip(1))
    again = audits.audit(told(tmp_path, releases=False), **how).scores[GLOBAL]
    assert not np.allclose(first, again)


def test_ten_lines_are_enough(tmp_path):
    write_lists(tmp_path, n=20)
    pairs = {
        part: {"images": f"{part}/images", "masks": f"{part}/masks"}
        for part in ("members", "nonmembers")
    }
    found = audits.audit(
        {"data": pairs | {"n_classes": C}, "answers": {"returns": "logits"}},
        model=Colours(), base=tmp_path, progress=False,
    )  # fmt: skip
    assert found.write() == tmp_path / "audit" / "report.html"
    assert len(found.exposed) == auditing.SHOWN and verdict.LEAST == 10


def test_camvid_by_drive_is_less_sure_than_by_frame(camvid_root, tmp_path):
    """Frames of a drive are alike; blocks of it are members, others not."""
    rows = ["image,mask,member"]
    for part in ("train", "val", "test"):
        for i, path in enumerate(sorted((camvid_root / part).glob("*.png"))):
            if i % 3 == 0:  # a third of the frames is enough here
                rows.append(f"{path},{camvid_root / f'{part}annot' / path.name},{(i // 24) % 2}")
    (tmp_path / "frames.csv").write_text("\n".join(rows))
    drives = r"(?:^|/)(\w+?)_[^/]*$"
    data = {"manifest": tmp_path / "frames.csv", "n_classes": 11, "void": 11, "size": (48, 64)}
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 11, 3, padding=1)
    areas = []
    for groups in (drives, None):
        of = Audit(data=data | {"groups": groups}, answers={"returns": "logits"}, out=tmp_path,
                   releases=False, **QUICK)  # fmt: skip
        found = audits.audit(of, model=net, progress=False).findings
        areas.append(found.attacks[0].auc)
    by_drive, by_frame = areas
    assert by_drive.value == by_frame.value and by_drive.n_member_groups >= 4
    assert by_drive.high - by_drive.low > by_frame.high - by_frame.low
    text = " ".join(audits.audit(
        of.model_copy(update={"data": of.data.model_copy(update={"groups": drives})}),
        model=net, progress=False,
    ).findings.verdict.warnings)  # fmt: skip
    assert "images of one owner stand or fall together" in text and "nearly the same" in text
