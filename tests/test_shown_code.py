"""What a notebook shows as code does what the library does, which is tested elsewhere."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from segleak_utils import data, metrics, representations, victims

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
RNG = torch.Generator().manual_seed(0)


def shown(notebook: str, function: str, **names: object):
    """A function as it stands in a notebook's cells, with what it finds there under these names."""
    for cell in nbformat.read(FOLDER / f"{notebook}.ipynb", as_version=4).cells:
        for node in ast.parse(cell.source).body if cell.cell_type == "code" else ():
            if isinstance(node, ast.FunctionDef) and node.name == function:
                assert not cell.metadata.get("jupyter", {}).get("source_hidden"), "folded away"
                assert len(cell.source.splitlines()) <= 15, "too long for a page"
                found = {"torch": torch, "np": np, "data": data, **names}
                exec(ast.unparse(node), found)
                return found[function]
    pytest.fail(f"{notebook} shows no function {function}")


def answers(n: int = 3, c: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Posteriors, some of them 0, and masks with void."""
    posterior = (8 * torch.rand(n, c, 6, 9, generator=RNG)).softmax(1)
    posterior[0, :, 0] = torch.eye(c)[:, :1]
    masks = torch.randint(0, c, (n, 6, 9), generator=RNG).byte()
    masks[1, :2] = data.VOID
    return posterior, masks


def test_the_two_errors_of_00_are_those_of_the_balanced_accuracy():
    scores = torch.randn(300, generator=RNG).numpy().round(1)
    member = np.arange(300) < 80
    of = type("", (), {"member": member})
    missed, accused = shown("00_start_here", "errors", scores=scores, shown=of)(0.3)
    found = metrics.balanced_accuracy_at(scores, member, 0.3)
    assert 1 - (missed + accused) / 2 == pytest.approx(found.value)


def test_a_victim_is_asked_in_01_as_the_library_does():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Dropout(0.5))
    with torch.no_grad():
        net[0].weight *= 300  # logits whose exponential overflows
    images = torch.rand(2, 3, 8, 10, generator=RNG)
    found = shown("01_victim_inference", "ask")(net.train(), images)
    torch.testing.assert_close(found, victims.posteriors(net, images))


def test_the_loss_map_of_02_is_the_librarys():
    posterior, masks = answers()
    found = shown("02_structured_loss_map", "loss_map")(posterior, masks)
    torch.testing.assert_close(found, representations.structured_loss_map(posterior, masks))
    assert found.max() > 69 and (found[1, 0, :2] == 0).all()


def test_sums_over_kinds_of_pixels_in_02_are_those_of_a_loop():
    kinds, values = (
        torch.randint(0, 4, (3, 6, 9), generator=RNG),
        torch.rand(3, 6, 9, generator=RNG),
    )
    found = shown("02_structured_loss_map", "sums_by")(kinds.byte(), 4, values)
    wanted = [[values[i][kinds[i] == k].sum().item() for k in range(4)] for i in range(3)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_what_mislabelled_pixels_add_in_02_is_a_part_of_the_mean_loss():
    posterior, masks = answers()
    maps = representations.structured_loss_map(posterior, masks)
    sums_by = shown("02_structured_loss_map", "sums_by")
    of = type("", (), {"n_classes": 5})
    adds = shown("02_structured_loss_map", "on_mistakes", sums_by=sums_by, shown=of)
    labelled = masks != data.VOID
    whole = maps[:, 0].sum((1, 2)) / labelled.sum((1, 2))
    everywhere = adds(maps, masks, torch.ones_like(labelled))
    torch.testing.assert_close(everywhere.sum(1).float(), whole)
    some = torch.rand(masks.shape, generator=RNG) < 0.3
    parts = adds(maps, masks, some) + adds(maps, masks, ~some)
    torch.testing.assert_close(parts, everywhere)
    assert adds(maps, masks, some)[2, 3].item() == pytest.approx(
        (maps[2, 0] * (some & (masks == 3))[2]).sum().item() / labelled[2].sum().item(), rel=1e-5
    )


def test_the_rings_of_02_are_cut_where_they_say():
    masks = torch.zeros(1, 1, 40, dtype=torch.uint8)
    masks[..., 20:] = 1  # boundary pixels are 19 and 20
    found = shown(
        "02_structured_loss_map", "rings_of", representations=representations,
        rings=[0, 1, 3, 6, 12, np.inf],
    )(masks)[0, 0, 20:]  # fmt: skip
    assert found.tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, *[4] * 8]
    assert (shown("02_structured_loss_map", "rings_of", representations=representations,
                  rings=[0, 1, 3, 6, 12, np.inf])(masks * 0) == 4).all()  # fmt: skip


def test_what_a_slider_of_02_keeps_is_weighed_by_pixels():
    sums, pixels = np.array([[[4.0, 1], [3, 0]]]), np.array([[[2.0, 1], [2, 0]]])
    kept = shown("02_structured_loss_map", "kept_score", clipped={"no": sums}, there=pixels)
    assert kept("no", -1, -1) == pytest.approx(-8 / 5)
    assert kept("no", 0, -1) == pytest.approx(-5 / 3)
    assert kept("no", -1, 0) == pytest.approx(-7 / 4)
    assert np.isnan(kept("no", 1, 1))
