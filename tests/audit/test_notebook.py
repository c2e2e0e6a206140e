"""Notebook 09 on anybody's audit.yml: no cell raises, and what it says is true of that audit."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
import yaml
from IPython.display import Markdown
from matplotlib.figure import Figure
from PIL import Image
from toy_audits import C, Colours, write_lists
from toy_findings import exposed, made_up

from segleak_utils.audit import risk, sentences
from segleak_utils.audit.config import Audit, Training
from segleak_utils.audit.twins import MOST
from segleak_utils.running import exercises

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "09_audit_your_model.ipynb"
N = 24  # images of a kind
QUICK = {"relabellings": 40, "resamples": 200}


@dataclass
class Shown:
    """What a run of the notebook showed, text and figures; the names that it bound."""

    text: str
    figures: list[Figure]
    names: dict

    @property
    def found(self):
        return self.names["of"]


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def ran(source: str, names: dict) -> object:
    """What a cell shows: the value of its last line."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return None


def run(folder: Path, told: dict, file: str = "audit.yml", **given: object) -> Shown:
    """Run all cells, and then the exercises' solutions, on a config that is written to `folder`."""
    (folder / file).write_text(yaml.safe_dump(QUICK | told), encoding="utf-8")
    names, texts, drawn, still_open = {}, [], [], 0
    for cell in cells():
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            texts.append(source)
            continue
        shown = ran(source, names)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= {"config": str(folder / file), "data_root": str(folder / "none")} | given
        if isinstance(shown, Markdown):
            texts.append(shown.data)
            bare = "" if shown.data.startswith("```yaml") else shown.data
            assert not re.search(r"\bNone\b|\bnan\b|\[\]|\{", bare), bare
        elif isinstance(shown, Figure):
            drawn.append(shown)
        elif isinstance(shown, exercises.Verdict):
            assert shown.text.startswith("**Open.**"), shown.text
            still_open += 1
        else:
            assert shown is None, source
    asked = exercises.of(nbformat.read(NOTEBOOK, as_version=4).cells)
    assert still_open == len(asked)
    for exercise in asked:
        ran(exercise.proof, dict(names))
    return Shown(re.sub(r"\s+", " ", "\n".join(texts)), drawn, names)


@pytest.fixture(autouse=True)
def without_a_screen():
    plt.switch_backend("Agg")
    plt.close("all")


# ---- networks that answer, on the machine that runs the tests ------------------------------------


class Knows(Colours):
    """Surer on the images that it knows, by `more`; it knows them by their pixels."""

    def __init__(self, folder: Path, more: float, tilt: float = 0.0) -> None:
        super().__init__(tilt=tilt)
        arrays = (np.array(Image.open(path)) for path in sorted(folder.glob("*.png")))
        self.keys = {hashlib.sha256(a.transpose(2, 0, 1).tobytes()).hexdigest() for a in arrays}
        self.more = more

    def forward(self, images):
        pixels = (255 * images).round().byte().numpy()
        known = [hashlib.sha256(one.tobytes()).hexdigest() in self.keys for one in pixels]
        sure = torch.tensor([self.more if is_known else 1 for is_known in known])
        return super().forward(images) * sure.view(-1, 1, 1, 1)

    def get_extra_state(self):
        return torch.tensor([self.more, int(hashlib.sha256(repr(sorted(self.keys)).encode())
                                            .hexdigest()[:6], 16)])  # fmt: skip

    def set_extra_state(self, state):
        pass


@pytest.fixture(scope="module")
def lists(tmp_path_factory) -> Iterator[Path]:
    """Two lists of pictures, two of a shadow's, and networks by name."""
    root = tmp_path_factory.mktemp("lists")
    write_lists(root, n=N)
    write_lists(root / "shadow", n=N, offset=500)
    module = types.ModuleType("for_notebook_09")
    module.leaky = Knows(root / "members" / "images", 2.5)
    module.dull = Colours(5.0)
    module.shadow = Knows(root / "shadow" / "members" / "images", 2.5, tilt=1)
    module.other = Colours(7.0, tilt=0.4)
    sys.modules[module.__name__] = module
    yield root
    del sys.modules[module.__name__]


def pairs(root: Path) -> dict:
    return {
        name: {"images": str(root / name / "images"), "masks": str(root / name / "masks")}
        for name in ("members", "nonmembers")
    }


def data(root: Path, **more: object) -> dict:
    return pairs(root) | {"n_classes": C} | more


def named(name: str, **more: object) -> dict:
    return {"model": f"for_notebook_09:{name}", "returns": "logits", "device": "cpu"} | more


def labels_in(lists: Path, folder: Path, wrong: dict[str, float]) -> Path:
    """Predicted label maps, so many of the pixels wrong."""
    rng = np.random.default_rng(0)
    for part, share in wrong.items():
        (folder / part).mkdir(parents=True)
        for path in sorted((lists / part / "masks").glob("*.png")):
            labels = np.array(Image.open(path))
            off = (rng.random(labels.shape) < share * rng.uniform(0.5, 1.5)) | (labels == 255)
            Image.fromarray(np.where(off, 0, labels).astype(np.uint8)).save(
                folder / part / path.name
            )
    return folder


def table(path: Path, columns: str, n: int = 40, m: int = 60, gain: float = 0.6) -> Path:
    """A CSV; members and non-members take turns; of losses members have `gain` times as much."""
    rng, rows = np.random.default_rng(0), [columns]
    for i in range(n + m):
        member = i % 2 == 0 if i < 2 * min(n, m) else n > m
        hard = rng.gamma(2, 1)
        values = {
            "image": f"i{i}",
            "member": int(member),
            "group": f"{member}{i // 8}",
            "loss": hard * (gain if member else 1) * rng.uniform(0.9, 1.1),
            "score": rng.normal(),
            "reference_1": hard * rng.uniform(0.9, 1.1),
            "reference_2": hard * rng.uniform(0.9, 1.1),
        }  # fmt: skip
        rows.append(",".join(str(values[name]) for name in columns.split(",")))
    path.write_text("\n".join(rows))
    return path


# ---- the matrix ----------------------------------------------------------------------------------


def test_a_model_with_references_a_shadow_and_owners(lists, tmp_path):
    told = {
        "name": "a net", "data": data(lists, groups=r"^(.\d\d)"), "answers": named("leaky"),
        "references": [named("shadow", shadow=pairs(lists / "shadow")), named("other")],
        "fail_above": {"auc": 0.6, "tpr_at_1pct": 0.05}, "relabellings": 80, "seed": 3,
    }  # fmt: skip
    shown = run(tmp_path, told)
    of, text = shown.found, shown.text
    assert shown.names["told"].seed == 3  # the file's own
    assert "two lists of their own (1 of 2) are **shadows**" in text
    assert "and 2 references, 1 shadow among them" in text and "of 6 owners" in text
    assert "Of 81 labellings, the true one and 80 that were dealt out anew" in text
    assert "too few owners for any difference to be seen" in text
    assert "nothing, then references, then shadows" in text and "it takes a hundred" in text
    assert f"allows is **{of.headline}**, one of {len(of.attacks)} attacks" in text
    assert "TPR at 10 % FPR" in text and "DeLong over groups" in text
    assert "groups.csv`, owner by owner" not in text and "see `groups.csv`" in text
    assert (
        "A naive mark far left of the adaptive one" in text
        and "Blue is where the model knows" in text
    )
    assert "By the limits in the file: auc above 0.6" in text and "--fail-above" not in text
    assert (
        f"Exit code {of.gate.exit_code}." in text and "tpr_at_1pct above 0.05: *undecided*" in text
    )
    assert "over 3 owners of members and 3 of non-members" in text
    assert "finds" in text and "without any other network global loss finds" in text
    assert len(shown.figures) == 6


def test_a_model_alone_and_no_releases(lists, tmp_path):
    told = {"data": data(lists), "answers": named("dull"), "releases": False, "level": 0.9}
    shown = run(tmp_path, told, "my audit.yml", seed=5)
    text = shown.text
    assert shown.names["told"].seed == 5  # the parameter's, where one is given
    assert "**references** could be given" in text and "**releases** is off" in text
    assert "**fail_above** could be given" in text and "network, and no reference. " in text
    assert "no row needs more than the audited answers" in text and "90 % intervals" in text
    assert "There is no pair of pictures that are the same" in text
    assert "**Not tried:** `releases` is off" in text and "A third would show" in text
    assert "audit 'my audit.yml' --seed 5 --fail-above auc=0.60" in text
    assert "What could not be run" in text and "**Owners.** Nobody told whose" in text
    assert len(shown.figures) == 5


def test_label_maps_with_a_reference_and_without(lists, tmp_path):
    said = labels_in(lists, tmp_path / "said", {"members": 0.1, "nonmembers": 0.3})
    other = labels_in(lists, tmp_path / "other", {"members": 0.3, "nonmembers": 0.3})
    told = {"data": data(lists), "answers": {"labels": str(said)}}
    shown = run(tmp_path, told)
    assert "attacks see nothing but errors" in shown.text and len(shown.figures) == 5
    assert "label maps; there is nothing left to withhold" in shown.text
    assert "predicts another class" in shown.text and "Who answered about" in shown.text
    assert "**Posteriors.** Whoever sees more" in shown.text
    shown = run(tmp_path, told | {"references": [{"labels": str(other)}]})
    assert "and 1 reference, no shadow among them" in shown.text
    assert shown.found.headline == "share of right pixels minus references'"
    assert "without any other network Dice finds" in shown.text
    assert "Blue is where the model knows" in shown.text


@pytest.mark.parametrize(
    ("columns", "headline", "columns_said"),
    [
        ("image,member,group,loss,reference_1,reference_2", "RMIA", "2 columns of references"),
        ("image,member,score", "score", "no column of references"),
        ("image,member,loss", "global loss", "no column of references"),
    ],
)
def test_a_table_of_numbers(columns, headline, columns_said, tmp_path):
    table(tmp_path / "scores.csv", columns)
    shown = run(tmp_path, {"answers": {"scores": "scores.csv"}})
    of, text = shown.found, shown.text
    assert of.headline == headline and columns_said in text and "Nobody was asked." in text
    assert "A table of numbers has no pictures to look at." in text
    assert "**Here it could not be run**: a table has no pictures." in text
    assert "Without pictures nobody knows whether they differ" in text
    assert "`images.csv` will have the risk" in text and "needs the answer, not one number" in text
    assert "not tested, for want of pictures" in text and "witnesses of how hard" in text
    assert ("the only attack that can be run" in text) == (len(of.attacks) == 1)
    assert ("**Owners.** Nobody told whose" in text) == ("group" not in columns)
    assert len(shown.figures) == 3  # intervals, ROC, p-values


@pytest.mark.parametrize("kind", ["the same for all", "told apart by one look", "ten of each"])
def test_a_table_in_which_scores_tie_or_never_meet(kind, tmp_path):
    n = 10 if kind == "ten of each" else 120
    score = {"the same for all": lambda i: 1, "ten of each": lambda i: i // 4 % 3}
    rows = [f"i{i},{i % 2},{score.get(kind, lambda i: i % 2)(i)}" for i in range(2 * n)]
    (tmp_path / "scores.csv").write_text("\n".join(["image,member,score", *rows]))
    shown = run(tmp_path, {"answers": {"scores": "scores.csv"}})
    assert f"of {n} members and {n} non-members" in shown.text
    assert ("TPR at 1 % FPR" in shown.text) == (n > 99)


def test_one_owner_of_a_kind_is_no_interval_over_owners(lists, tmp_path):
    shown = run(tmp_path, {"data": data(lists, groups="^([mn])"), "answers": named("dull")})
    assert "**groups** says whose an image is" in shown.text
    assert "There are 2 owners, too few for intervals over them" in shown.text
    assert "DeLong over images" in shown.text
    assert "there is one attacker only" in shown.text


def test_few_non_members_have_no_tpr_at_a_hundredth(tmp_path, lists):
    write_lists(tmp_path, n=12)
    answers = named("dull")
    shown = run(tmp_path, {"data": data(tmp_path), "answers": answers, "releases": False})
    text = shown.text
    assert "TPR at 10 % FPR" in text and "threshold is number 2 of 12 non-members" in text
    assert "Below .05 there can be none with 12 non-members" in text
    assert "in steps of 0.077" in text and "so none is flagged, or 10 at least." in text
    strict = {"data": data(tmp_path), "answers": answers, "releases": False}
    shown = run(tmp_path, strict | {"false_discovery_rate": 0.005})
    assert "at most 0.5 % of the flagged" in shown.text
    assert "nobody can be flagged here" in shown.text


def test_lists_that_differ(lists, tmp_path):
    write_lists(tmp_path, n=N)
    for path in (tmp_path / "nonmembers" / "images").glob("*.png"):
        brighter = np.array(Image.open(path)).astype(float) * 1.3
        Image.fromarray(brighter.clip(0, 255).astype(np.uint8)).save(path)
    told = {"data": data(tmp_path), "answers": named("dull"), "releases": False}
    shown = run(tmp_path, told | {"fail_above": {"auc": 0.9}})
    assert "**The lists differ by themselves**, most in" in shown.text
    assert "Verdict: **invalid**" in shown.text and "*invalid* (the lists differ" in shown.text
    assert "| 0.95 | invalid | 5 |" in shown.text


def test_swapped_lists(lists, tmp_path):
    both = pairs(lists)
    turned = {"members": both["nonmembers"], "nonmembers": both["members"], "n_classes": C}
    shown = run(tmp_path, {"data": turned, "answers": named("leaky"), "releases": False})
    assert "the two lists may be swapped" in shown.text and "| 0.95 | invalid | 5 |" in shown.text
    assert "| 0.55 | passes |" not in shown.text


def test_names_that_mean_something_to_markdown_and_pictures_that_come_twice(lists, tmp_path):
    write_lists(tmp_path, n=N)
    for kind in ("images", "masks"):
        for old, new in (("m000", "$a_{$*b*"), ("m001", "$x$")):
            folder = tmp_path / "members" / kind
            (folder / f"{old}.png").rename(folder / f"{new}.png")
        shutil.copy(folder / "$x$.png", folder / "$y$.png")
    names = [f"a_{k}_<b>" for k in range(C)]
    told = {
        "name": "net <b>*x*\n# y", "data": pairs(tmp_path) | {"classes": names},
        "answers": named("dull"), "releases": False,
    }  # fmt: skip
    shown = run(tmp_path, told)
    shown.figures[0].canvas.draw()
    assert r"net \<b\>\*x\* \# y" in shown.text
    assert "There is 1 pair of pictures" in shown.text
    assert ", none of them across the two lists" in shown.text


def test_posteriors_on_file_by_a_manifest(lists, tmp_path):
    rows = ["image,mask,member,group"]
    (tmp_path / "said").mkdir()
    for part in ("members", "nonmembers"):
        for k, path in enumerate(sorted((lists / part / "images").glob("*.png"))):
            mask = lists / part / "masks" / path.name
            rows.append(f"{path},{mask},{int(part == 'members')},{part}{k // 2}")
            image = torch.from_numpy(np.array(Image.open(path)).transpose(2, 0, 1)) / 255
            np.save(tmp_path / "said" / f"{path.stem}.npy", Colours()(image[None])[0].detach())
    (tmp_path / "lists.csv").write_text("\n".join(rows))
    told = {
        "data": {"manifest": "lists.csv", "n_classes": C},
        "answers": {"posteriors": "said", "returns": "logits"},
    }
    shown = run(tmp_path, told)
    assert "**manifest** is a table with the two lists" in shown.text
    assert "in which folder its posteriors lie, and what they are" in shown.text
    assert f"over {N // 2} owners of members" in shown.text


def test_an_audit_of_nothing_is_refused_in_words(lists, tmp_path):
    with pytest.raises(ValueError, match="answers: give one of model, file"):
        run(tmp_path, {"data": data(lists)})


# ---- sentences that no run above has -------------------------------------------------------------


def test_references_that_are_trained_here_are_told():
    of = Audit(train_references=Training(count=3, images="more"), answers={"model": "a:b",
               "returns": "logits"})  # fmt: skip
    assert "**train_references**: 3 references trained here" in sentences.told_of(of)
    ignored = Audit(answers={"scores": "a.csv"}, train_references=Training(images="more"))
    assert "the ones named here are not asked" in sentences.told_of(ignored)
    assert "nothing to audit yet" in sentences.told_of(Audit())


def test_references_are_told_with_what_they_saw_and_what_they_teach():
    both = {"members": {"images": "a"}, "nonmembers": {"images": "b"}}
    one = {"file": "net.onnx", "returns": "logits", "trained_on": "seen.txt", "shadow": both}
    of = Audit(references=[one], answers={"file": "net.pt2", "returns": "logits"})
    text = sentences.told_of(of)
    assert "two lists of their own (1 of 1)" in text and "`trained_on` names" in text
    assert "which file holds the network" in text
    shadows = made_up()[0].audited.model_copy(update={"n_shadows": 2})
    assert "2 references, all of them shadows" in sentences.asked(shadows, of)


def test_a_blind_baseline_below_a_half_and_many_twins():
    of, _ = made_up()
    area = of.blind.auc.model_copy(update={"value": 0.3, "low": 0.2, "high": 0.4})
    blind = of.blind.model_copy(update={"auc": area})
    owners = tuple(image.model_copy(update={"group": None}) for image in of.images)
    found = of.model_copy(update={"blind": blind, "images": owners, "twins": of.twins * MOST})
    text = sentences.blind_baseline(found)
    assert "lies below .5" in text and f"There are at least {MOST} pairs" in text
    assert f"{MOST} of them across" in text


def test_a_picture_without_its_references_has_no_third_column():
    told = Audit(answers={"model": "a:b", "returns": "logits"})
    some = [*exposed(), *exposed(references=False)]
    assert "A third would show" in sentences.most_exposed(some, told)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_nobody_is_flagged_or_as_many_as_are_said(rate):
    """With all members above all non-members, as few as there can be and one fewer."""
    for n, others in ((10, 10), (20, 30), (150, 300), (7, 99)):
        least = risk.fewest_flagged(n, others, rate)
        for k in range(n + 1):
            p = np.where(np.arange(n) < k, 1 / (1 + others), 1.0)
            assert risk.flagged(p, rate).sum() == (k if least is not None and k >= least else 0)


# ---- the notebook's form -------------------------------------------------------------------------


def test_what_assembles_text_is_folded_and_cells_are_short():
    for cell in cells():
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert len(source.splitlines()) <= 15 or "import" in source, source
            folded = cell["metadata"].get("jupyter", {}).get("source_hidden", False)
            assert not (folded and re.search(r"figures\.render|audits\.|gate\.decide", source)), (
                source
            )
            assert folded or not source.startswith("Markdown("), source
