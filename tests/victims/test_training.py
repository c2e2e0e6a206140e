"""Training a victim: augmentation, seeds, resuming, early stopping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_victims import NAMES, SMALL, VOID, same_weights, scenes_of

from segleak_utils.data import Scenes
from segleak_utils.victims import Recipe, augmentation, posteriors, train_victim, training

STILL = {"flip": False, "crop_area": 1, "colour": 0}


# ---- augmentation --------------------------------------------------------------------------------


def test_image_and_mask_move_together_and_no_label_is_invented():
    scenes = scenes_of(6)
    augment = augmentation(Recipe(colour=0, crop_area=0.4), (32, 64))
    torch.manual_seed(0)
    changed = 0
    for image, mask in scenes:
        moved, labels = augment(image, mask)
        assert (moved.shape, labels.shape) == (image.shape, mask.shape)
        assert type(moved) is torch.Tensor and type(labels) is torch.Tensor
        assert moved.dtype == torch.float32 and labels.dtype == torch.int64
        assert set(labels.unique().tolist()) <= {*mask.unique().tolist(), VOID}
        expected = torch.where(labels == VOID, 0, 40 + 80 * labels) / 255
        # the image is interpolated, the mask is not: they part at boundaries only
        flat = expected.unfold(0, 5, 1).unfold(1, 5, 1)
        inside = flat.amax((-1, -2)) == flat.amin((-1, -2))
        assert inside.float().mean() > 0.2
        assert torch.allclose(moved[0, 2:-2, 2:-2][inside], expected[2:-2, 2:-2][inside], atol=1e-4)
        changed += not torch.equal(labels, mask)
    assert changed >= 5


def test_flip_alone_mirrors_both_or_neither():
    (image, mask), *_ = scenes_of(1)
    augment = augmentation(Recipe(colour=0, crop_area=1), (32, 64))
    torch.manual_seed(0)
    flipped = 0
    for _ in range(20):
        moved, labels = augment(image, mask)
        mirrored = torch.equal(labels, mask.flip(-1))
        assert torch.equal(moved, image.flip(-1) if mirrored else image)
        assert mirrored or torch.equal(labels, mask)
        flipped += mirrored
    assert 0 < flipped < 20


def test_colour_leaves_the_mask_and_the_range_alone():
    (image, mask), *_ = scenes_of(1)
    moved, labels = augmentation(Recipe(**STILL | {"colour": 0.5}), (32, 64))(image, mask)
    assert torch.equal(labels, mask) and not torch.equal(moved, image)
    assert moved.min() >= 0 and moved.max() <= 1


def test_without_flip_crop_and_colour_nothing_changes():
    (image, mask), *_ = scenes_of(1)
    moved, labels = augmentation(Recipe(**STILL), (32, 64))(image, mask)
    assert torch.equal(moved, image) and torch.equal(labels, mask)


def test_an_answer_moves_with_its_mask():
    scenes = scenes_of(4)
    augment = augmentation(Recipe(colour=0, crop_area=0.4), (32, 64))
    torch.manual_seed(0)
    for k, pair in enumerate(scenes):
        answers = torch.stack([pair[1] == c for c in range(3)]).half().expand(4, -1, -1, -1)
        _, moved = augment(*training._with_answer(pair, answers, k))
        labels, said = moved[0].long(), moved[1:]
        assert torch.equal(said.argmax(0)[labels != VOID], labels[labels != VOID])
        assert not said[:, labels == VOID].any()


# ---- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    return train_victim(SMALL, scenes_of(), scenes_of(2, 1), seed=3, progress=None)


def test_the_same_seed_gives_the_same_weights(trained):
    model, history = trained
    again, same = train_victim(SMALL, scenes_of(), scenes_of(2, 1), seed=3, progress=None)
    assert same_weights(model, again) and history == same and not model.training
    other, _ = train_victim(SMALL, scenes_of(), scenes_of(2, 1), seed=4, progress=None)
    assert not same_weights(model, other)
    assert [h["epoch"] for h in history] == [1, 2, 3]
    assert ["held_out_miou" in h for h in history] == [False, False, True]


def test_a_resumed_run_ends_in_the_weights_of_an_uninterrupted_one(trained, tmp_path, monkeypatch):
    whole, epochs = training._one_epoch, []

    def interrupted(*args):
        if len(epochs) == 2:
            raise KeyboardInterrupt
        epochs.append(1)
        return whole(*args)

    path = tmp_path / "deep" / "run.pt"
    arguments = {"seed": 3, "checkpoint": path, "progress": None}
    monkeypatch.setattr("segleak_utils.victims.training._one_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_victim(SMALL, scenes_of(), scenes_of(2, 1), **arguments)
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]
    left = []
    monkeypatch.setattr(
        "segleak_utils.victims.training._one_epoch", lambda *a: left.append(1) or whole(*a)
    )
    torch.rand(7)  # whatever happened in between
    model, history = train_victim(SMALL, scenes_of(), scenes_of(2, 1), **arguments)
    assert len(left) == 1 and same_weights(model, trained[0]) and history == trained[1]
    # once complete, nothing is trained
    model, _ = train_victim(SMALL, scenes_of(), scenes_of(2, 1), **arguments)
    assert len(left) == 1 and same_weights(model, trained[0])


def test_another_recipes_seeds_or_scenes_checkpoint_is_not_used(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr(
        "segleak_utils.victims.training._one_epoch", lambda *_: epochs.append(1) or 1.0
    )
    monkeypatch.setattr("segleak_utils.victims.training.mean_iou", lambda *_: 0.5)
    path, recipe = tmp_path / "run.pt", SMALL.model_copy(update={"lr": 1e-3})
    members, held_out = scenes_of(), scenes_of(2, 1)
    train_victim(SMALL, members, held_out, seed=3, checkpoint=path, progress=None)
    content = path.read_bytes()
    for case, trained_epochs in (
        ((SMALL, members, held_out, 3), 0),
        ((recipe, members, held_out, 3), 3),
        ((SMALL, scenes_of(seed=2), held_out, 3), 3),
        ((SMALL, members, scenes_of(2, 4), 3), 3),
        ((SMALL, members, held_out, 5), 3),
    ):
        path.write_bytes(content)
        epochs.clear()
        train_victim(*case[:3], seed=case[3], checkpoint=path, progress=None)
        assert len(epochs) == trained_epochs


def test_the_best_held_out_weights_are_kept_and_patience_ends_the_run(monkeypatch):
    looks, seen = iter([0.2, 0.5, 0.4, 0.3]), []

    def look(model, held_out):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(looks)

    monkeypatch.setattr("segleak_utils.victims.training.mean_iou", look)
    recipe = SMALL.model_copy(update={"epochs": 9, "check_every": 1, "patience": 2})
    model, history = train_victim(recipe, scenes_of(4), scenes_of(1, 1), seed=0, progress=None)
    assert [h["held_out_miou"] for h in history] == [0.2, 0.5, 0.4, 0.3]
    assert all(torch.equal(v, seen[1][k]) for k, v in model.state_dict().items())


def test_a_training_of_five_steps_rises_and_falls_too():
    """A fifth of five steps, the usual rise of the learning rate, has no length."""
    recipe = SMALL.model_copy(update={"epochs": 5})
    _, history = train_victim(recipe, scenes_of(recipe.batch), scenes_of(1, 1), seed=0)
    assert len(history) == 5


def test_scenes_that_do_not_fit_the_recipe_are_refused():
    members, held_out = scenes_of(), scenes_of(2, 1)
    with pytest.raises(ValueError, match="recipe has 19 classes, the members 3, the held-out"):
        train_victim(Recipe(), members, held_out, seed=0)
    with pytest.raises(ValueError, match=r"3 members and 2 held-out scenes: .*one batch \(4\)"):
        train_victim(SMALL, members.subset(range(3)), held_out, seed=0)
    with pytest.raises(ValueError, match="8 members and 0 held-out scenes"):
        train_victim(SMALL, members, held_out.subset([]), seed=0)


def test_held_out_scenes_without_a_label_are_refused():
    images = np.zeros((2, 3, 32, 64), np.uint8)
    images[1] = 1
    void = Scenes.from_arrays(images, np.full((2, 32, 64), VOID, np.uint8), ["a", "b"], NAMES)
    with pytest.raises(ValueError, match="held-out"):
        train_victim(SMALL, scenes_of(4), void, seed=0, progress=None)


@pytest.mark.parametrize("damage", ["empty", "half", "text", "no zip", "foreign"])
def test_a_torn_checkpoint_says_what_to_do(tmp_path, damage):
    path = tmp_path / "run.pt"
    torch.save({"identity": "x"} if damage != "foreign" else {"epoch": torch.rand(99)}, path)
    content = path.read_bytes()
    torn = {"empty": b"", "half": content[: len(content) // 2], "text": b"hello\n" * 9}
    path.write_bytes(torn.get(damage, b"garbage" if damage == "no zip" else content))
    with pytest.raises(ValueError, match=r"run\.pt cannot be read .*delete it to start afresh"):
        train_victim(SMALL, scenes_of(), scenes_of(2, 1), seed=0, checkpoint=path, progress=None)


def with_voids(n: int, void: range) -> Scenes:
    items = [scenes_of(n)[k] for k in range(n)]
    images = np.stack([(image * 255).round().byte().numpy() for image, _ in items])
    masks = np.stack([mask.byte().numpy() for _, mask in items])
    masks[void] = VOID
    return Scenes.from_arrays(images, masks, [f"v{k}" for k in range(n)], NAMES)


def test_a_batch_without_a_label_spoils_neither_weights_nor_history():
    """The mean over no pixel is NaN, and one step with it makes NaN of every weight."""
    recipe = SMALL.model_copy(update={"batch": 2, "crop_area": 1, "epochs": 1, "check_every": 1})
    members = with_voids(6, range(1, 6))  # of three batches at least two have no label
    model, history = train_victim(recipe, members, scenes_of(2, 1), seed=0, progress=None)
    assert np.isfinite(history[0]["loss"])
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    nothing = with_voids(4, range(4))
    with pytest.raises(ValueError, match="the members have no labelled pixel: all are void"):
        train_victim(recipe, nothing, scenes_of(2, 1), seed=0, progress=None)


def test_held_out_scenes_are_no_members():
    members = scenes_of()
    with pytest.raises(ValueError, match="2 held-out scenes are members"):
        train_victim(SMALL, members, members.subset([0, 1]), seed=0, progress=None)


# ---- imitation -----------------------------------------------------------------------------------


def test_answers_are_learned_beside_the_labels(tmp_path):
    """A teacher that takes every road for a car: who imitates it says so, too."""
    members, recipe = scenes_of(), SMALL.model_copy(update={"epochs": 30, **STILL})
    masks = torch.stack([mask for _, mask in members]).clamp(max=2)
    taught = masks.where(masks != 0, torch.ones(()).long())
    answers = torch.nn.functional.one_hot(taught, 3).permute(0, 3, 1, 2).half()
    how = {"seed": 3, "progress": None}
    images, road = torch.stack([image for image, _ in members]), masks == 0
    cars = {}
    for name, given in (("labels", None), ("answers", answers)):
        model, _ = train_victim(recipe, members, scenes_of(2, 1), answers=given, **how)
        cars[name] = posteriors(model, images)[:, 1][road].mean().item()
    assert cars["answers"] > cars["labels"] + 0.1
    # a checkpoint of the one is none of the other
    kept = tmp_path / "run.pt"
    train_victim(SMALL, members, scenes_of(2, 1), checkpoint=kept, answers=answers, **how)
    alone, _ = train_victim(SMALL, members, scenes_of(2, 1), **how)
    again, _ = train_victim(SMALL, members, scenes_of(2, 1), checkpoint=kept, **how)
    assert same_weights(alone, again)


def test_answers_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"answers \(7, 3, 32, 64\); expected \(8, 3, 32, 64\)"):
        train_victim(
            SMALL, scenes_of(), scenes_of(2, 1), seed=0, answers=torch.full((7, 3, 32, 64), 1 / 3)
        )
    with pytest.raises(ValueError, match="sum"):
        train_victim(
            SMALL, scenes_of(), scenes_of(2, 1), seed=0, answers=torch.full((8, 3, 32, 64), 0.5)
        )


# ---- going on from a network ---------------------------------------------------------------------


def test_a_training_goes_on_from_the_weights_it_is_given(tmp_path):
    members, held_out = scenes_of(), scenes_of(2, 1)
    start, _ = train_victim(SMALL, members, held_out, seed=0, progress=None)
    still = SMALL.model_copy(update={"lr": 1e-12, "epochs": 1})  # moves nothing but statistics
    kept, how = tmp_path / "run.pt", {"seed": 1, "progress": None}
    moved, _ = train_victim(still, members, held_out, start=start, checkpoint=kept, **how)
    for (name, a), b in zip(moved.named_parameters(), start.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
    # a checkpoint of the one is none of the other
    alone, _ = train_victim(still, members, held_out, **how)
    again, _ = train_victim(still, members, held_out, checkpoint=kept, **how)
    assert same_weights(alone, again) and not same_weights(alone, moved)
