"""Posteriors on file: sums, axes, what float16 can show, and bytes behind the array."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from example_folder import fake

from segleak_utils.data import examples
from segleak_utils.victims.recorded import recorded


def logits(height: int = 20, width: int = 21) -> torch.Tensor:
    return torch.randn(19, height, width, generator=torch.Generator().manual_seed(0)) * 3


def saved(tmp_path, posterior: torch.Tensor):
    np.save(tmp_path / "a.npy", posterior.numpy())
    return tmp_path / "a.npy"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda x: x.softmax(1), r"expected 1, but over the rows they are 1: apply softmax over"),
        (lambda x: x.softmax(2), r"expected 1, but over the columns they are 1: apply softmax"),
        (lambda x: x.sigmoid(), r"sums over the classes are \d.* to 1\d.*, expected 1: .*sigmoids"),
        (lambda x: 2 * x.softmax(0), r"sums over the classes are 2 to 2, .*normalise=True"),
        (lambda x: 0.98 * x.softmax(0), r"sums over the classes are 0\.98 to 0\.98"),
    ],
)
def test_what_is_no_posterior_is_told_by_its_sums(tmp_path, wrong, told):
    with pytest.raises(ValueError, match=rf"a\.npy: .*{told}"):
        examples.values(saved(tmp_path, wrong(logits())))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_posterior_is_as_it_is_unless_its_sum_is_asked_for(tmp_path, dtype):
    posterior = (1.005 * logits().softmax(0)).to(dtype)
    path = saved(tmp_path, posterior)
    least = 2**-24 if dtype == torch.float16 else 0
    assert torch.equal(examples.values(path)[0], posterior.float().clamp(min=least))
    asked = examples.values(path, normalise=True)
    assert torch.allclose(asked[0], logits().softmax(0), atol=1e-3)
    assert torch.allclose(asked.sum(1), torch.ones(1, 20, 21), atol=1e-5)
    doubled = saved(tmp_path, 2 * logits().softmax(0))
    found = examples.values(doubled, normalise=True)[0]
    assert torch.allclose(found, logits().softmax(0), atol=1e-6)


def test_a_zero_costs_what_its_type_can_show(tmp_path):
    certain = torch.zeros(19, 2, 3)
    certain[0] = 1
    half = examples.values(saved(tmp_path, certain.half()))
    assert half[0, 1, 0, 0].item() == 2**-24 and half[0, 0, 0, 0] == 1
    assert math.isclose(-half[0, 1, 0, 0].log().item(), 16.6, abs_tol=0.04)
    assert examples.values(saved(tmp_path, certain))[0, 1, 0, 0] == 0
    with pytest.raises(ValueError, match="no class has any probability"):
        examples.values(saved(tmp_path, torch.zeros(19, 2, 3).half()))


def test_bytes_behind_the_array_are_refused(tmp_path):
    path = saved(tmp_path, logits().softmax(0))
    with open(path, "ab") as file:
        file.write(b"12345")
    for read in (examples.stored, examples.values):
        with pytest.raises(ValueError, match=r"a\.npy goes on for 5 bytes behind its array"):
            read(path)


@pytest.mark.parametrize("label_scale", [1, 8])
def test_a_transposed_posterior_is_refused(tmp_path, label_scale):
    root = fake(tmp_path / "e", n=1, kinds=("sgd",), grid=(16, 32), label_scale=label_scale)
    assert examples.read(root).members.shape == (16, 32)
    for path in root.rglob("*.npy"):
        np.save(path, np.load(path).transpose(0, 2, 1))
    match = r"(16x32|128x256) and .* 32x16 .*height and width of the posterior are exchanged"
    with pytest.raises(ValueError, match=match):
        examples.read(root)


def test_a_recorded_victim_answers_with_proper_posteriors_only(tmp_path):
    root = fake(tmp_path / "e", n=1, kinds=("sgd",), grid=(16, 32))
    of = examples.read(root)
    victim, image = recorded(of, "sgd"), of.members[0][0][None]
    stored = torch.from_numpy(np.load(of.of("sgd")[0]))
    assert torch.allclose(victim(image).softmax(1)[0], stored, atol=1e-6)
    np.save(of.of("sgd")[0], 2 * stored.numpy())
    with pytest.raises(ValueError, match="sums over the classes are 2 to 2"):
        victim(image)
