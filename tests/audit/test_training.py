"""References that are trained beside the audit: split, found again, resumed, on a Dask cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_audits import C, Colours, data_of, scene, write_lists

from segleak_utils import audit as audits
from segleak_utils.attacks.references import CALIBRATED
from segleak_utils.audit import training
from segleak_utils.audit.config import Audit
from segleak_utils.audit.pictures import listed
from segleak_utils.victims import Recipe

SIZE = (64, 64)
RECIPE = Recipe(n_classes=C, epochs=1, batch=4, crop_area=1, check_every=1)


def more_pictures(root: Path, n: int = 40, offset: int = 40_000) -> dict:
    for kind in ("images", "masks"):
        (root / "more" / kind).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        image, mask = scene(offset + i, SIZE)
        Image.fromarray(image).save(root / "more" / "images" / f"x{i:03}.png")
        Image.fromarray(mask).save(root / "more" / "masks" / f"x{i:03}.png")
    return {"images": root / "more" / "images", "masks": root / "more" / "masks"}


def told(root: Path, **how: object) -> Audit:
    return Audit(
        data=data_of(root), answers={"returns": "logits"}, out=root / "out", relabellings=40,
        resamples=200, releases=False, train_references={"recipe": RECIPE, "jobs": 1} | how,
    )  # fmt: skip


@pytest.mark.slow
def test_references_are_trained_once_and_teach_the_structured_attack(tmp_path, monkeypatch):
    write_lists(tmp_path, n=20, size=SIZE)
    of = told(tmp_path, count=2, **more_pictures(tmp_path))
    found = audits.audit(of, model=Colours(), progress=False).findings
    assert found.headline == CALIBRATED
    assert (found.audited.n_references, found.audited.n_shadows) == (2, 2)
    files = sorted((tmp_path / "out" / "references").glob("*.safetensors"))
    assert len(files) == 2
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("they are there already"))
    again = audits.audit(of, model=Colours(), progress=False).findings
    assert again.attacks == found.attacks


@pytest.mark.slow
def test_one_reference_has_the_audited_model_for_its_own(tmp_path):
    write_lists(tmp_path, n=20, size=SIZE)
    of = told(tmp_path, count=1, **more_pictures(tmp_path))
    found = audits.audit(of, model=Colours(), progress=False).findings
    assert found.headline == CALIBRATED and found.audited.n_shadows == 1


@pytest.mark.slow
def test_references_are_trained_by_the_workers_of_a_dask_cluster(tmp_path):
    from distributed import LocalCluster

    write_lists(tmp_path, n=20, size=SIZE)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        how = {"count": 2, "cluster": cluster.scheduler_address}
        of = told(tmp_path, **how, **more_pictures(tmp_path))
        found = audits.audit(of, model=Colours(), progress=False).findings
    assert found.audited.n_references == 2
    alone = told(tmp_path / "alone", count=2, **more_pictures(tmp_path / "alone"))
    write_lists(tmp_path / "alone", n=20, size=SIZE)
    here = audits.audit(alone, model=Colours(), progress=False).findings
    pairs = zip(here.attacks, found.attacks, strict=True)
    assert all(abs(a.auc.value - b.auc.value) < 0.05 for a, b in pairs)


def test_members_non_members_and_held_out_images_are_apart():
    parts = training.split(101, 3, seed=1)
    assert [len(part) for part in parts] == [22, 22, 22, 22, 10]
    joined = [i for part in parts for i in part]
    assert len(set(joined)) == len(joined) and max(joined) <= 100
    assert training.split(101, 3, seed=1) == parts != training.split(101, 3, seed=2)


def test_images_that_are_audited_or_too_few_are_refused(tmp_path):
    write_lists(tmp_path, n=20, size=SIZE)
    few = told(tmp_path, count=2, **more_pictures(tmp_path, n=20))
    with pytest.raises(ValueError, match=r"20 images .* give each of 2 references 6 members"):
        audits.audit(few, model=Colours(), progress=False)
    Image.open(tmp_path / "members/images/m003.png").save(tmp_path / "more/images/x001.png")
    with pytest.raises(ValueError, match=r"x001.png is in the audited lists, too"):
        audits.audit(few, model=Colours(), progress=False)


def test_a_cluster_that_does_not_answer_is_named(tmp_path):
    write_lists(tmp_path, n=20, size=SIZE)
    of = told(tmp_path, count=1, cluster="tcp://127.0.0.1:9", **more_pictures(tmp_path))
    with pytest.raises(ConnectionError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9"):
        audits.audit(of, model=Colours(), progress=False)


# ---- networks of libraries, trained on half of a folder ------------------------------------------


def overtrained(net: torch.nn.Module, root: Path, logits, steps: int) -> torch.nn.Module:
    """The network trained on the members alone, again and again."""
    paths = sorted((root / "members" / "images").glob("*.png"))
    images = torch.stack(
        [torch.from_numpy(np.array(Image.open(p)).transpose(2, 0, 1)).float() / 255 for p in paths]
    )
    masks = torch.stack(
        [torch.from_numpy(np.array(Image.open(root / "members/masks" / p.name))).long()
         for p in paths]
    )  # fmt: skip
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1  # torchvision's 0.01 is for long trainings
    net.train()
    for step in range(steps):
        at = torch.arange(8 * step, 8 * step + 8) % len(images)
        out = torch.nn.functional.interpolate(logits(net(images[at])), SIZE, mode="bilinear")
        loss = torch.nn.functional.cross_entropy(out, masks[at], ignore_index=255)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def lraspp() -> torch.nn.Module:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=C)


def segformer() -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 4],
        decoder_hidden_size=32, num_labels=C, hidden_dropout_prob=0, classifier_dropout_prob=0,
        drop_path_rate=0,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "logits"),
    [(lraspp, lambda out: out["out"]), (segformer, lambda out: out.logits)],
    ids=["torchvision", "transformers"],
)
def test_the_networks_of_libraries_leak_when_they_are_overtrained(tmp_path, make, logits):
    """Annotators at odds (a third of the patches) can only be learned by heart."""
    rng = np.random.default_rng(0)
    write_lists(tmp_path, n=40, size=SIZE)
    for path in sorted(tmp_path.glob("*/masks/*.png")):
        mask = np.array(Image.open(path))
        wrong = (rng.random((8, 8)) < 0.33).repeat(8, 0).repeat(8, 1) & (mask != 255)
        Image.fromarray(np.where(wrong, (mask + 1) % C, mask).astype(np.uint8)).save(path)
    of = Audit(data=data_of(tmp_path), answers={"returns": "logits"}, out=tmp_path / "out",
               relabellings=40, resamples=200, releases=False)  # fmt: skip
    torch.manual_seed(0)
    net = make()
    untrained = audits.audit(of, model=net, progress=False).findings
    assert untrained.verdict.kind == "no evidence"
    found = audits.audit(of, model=overtrained(net, tmp_path, logits, 150), progress=False).findings
    assert found.verdict.kind == "leak" and found.attacks[0].auc.low > 0.6
    assert found.audited.miou_members > found.audited.miou_nonmembers


def test_a_picture_that_is_there_twice_is_trained_on_once(tmp_path):
    write_lists(tmp_path, n=4)
    pictures = listed(data_of(tmp_path))
    kept = training._first_of_each(pictures, ["a", "b", "a", "c", "d", "e", "f", "b"], set())
    assert [of.id for of in kept] == [pictures[i].id for i in (0, 1, 3, 4, 5, 6)]
