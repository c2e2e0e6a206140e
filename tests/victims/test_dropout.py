"""A victim that answers with dropout left on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from segleak_utils.representations import check_posterior
from segleak_utils.victims import (
    Recipe,
    build_victim,
    load_victim,
    mc_dropout,
    posteriors,
    save_weights,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- dropout at the time of asking ---------------------------------------------------------------


class Net(nn.Module):
    """One layer between BatchNorm and dropout, both of which behave otherwise in training."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see, self.norm = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16)
        self.drop, self.say = nn.Dropout2d(share), nn.Conv2d(16, 4, 1)
        self.fails = False

    def forward(self, images):
        assert self.drop.training and not self.norm.training
        if self.fails:
            raise RuntimeError("out of memory")
        return 3 * self.say(self.drop(self.norm(self.see(images))))


IMAGES = torch.rand(2, 3, 6, 8, generator=seeded())


def test_an_answer_is_the_log_of_the_mean_posterior_of_the_passes():
    net = Net().eval()
    found = mc_dropout(net, 5, seed=2)(IMAGES)
    assert found.shape == (2, 4, 6, 8) and found.dtype == torch.float32
    check_posterior(found.exp())
    assert torch.allclose(posteriors(mc_dropout(net, 5, seed=2), IMAGES), found.exp(), atol=1e-6)
    # The first call draws from the seed alone, so its passes can be made again by hand.
    single = mc_dropout(net, 1, seed=2)
    torch.manual_seed(2 * 1_000_003)
    net.drop.train()
    with torch.no_grad():
        seen = [net(IMAGES).softmax(1) for _ in range(5)]
    torch.testing.assert_close(found.exp(), torch.stack(seen).mean(0))
    torch.testing.assert_close(single(IMAGES).exp(), seen[0])


@pytest.mark.parametrize("before", [False, True])
def test_an_encoder_before_all_dropout_looks_once(before):
    class Encoded(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Module()
            see = [nn.Conv2d(3, 8, 1), nn.Dropout2d(0.5 if before else 0.0)]
            self.net.encoder, self.net.drop = nn.Sequential(*see), nn.Dropout2d(0.5)

        def forward(self, images):
            return self.net.drop(self.net.encoder(images))

    net = Encoded().eval()
    looked = []
    net.net.encoder[0].register_forward_hook(lambda *_: looked.append(1))
    found = mc_dropout(net, 3, seed=2)(IMAGES)
    assert len(looked) == (3 if before else 1)
    torch.manual_seed(2 * 1_000_003)
    random = [net.net.drop, *([net.net.encoder[1]] if before else [])]
    for layer in random:
        layer.train()
    with torch.no_grad():
        by_hand = torch.stack([net(IMAGES).softmax(1) for _ in range(3)]).mean(0)
    torch.testing.assert_close(found.exp(), by_hand)


def test_answers_follow_the_seed_and_differ_from_call_to_call():
    first, again, other = (mc_dropout(Net(), 2, seed=s) for s in (1, 1, 2))
    answers = [first(IMAGES) for _ in range(3)]
    assert all(torch.equal(a, again(IMAGES)) for a in answers)
    assert not torch.equal(answers[0], answers[1]) and not torch.equal(answers[1], answers[2])
    assert not torch.equal(answers[0], other(IMAGES))


def test_more_passes_bring_two_answers_closer():
    def gap(passes):
        one, two = (mc_dropout(Net(), passes, seed=s)(IMAGES).exp() for s in (1, 2))
        return (one - two).abs().mean().item()

    gaps = [gap(passes) for passes in (1, 8, 64)]
    assert gaps[0] > 1.5 * gaps[1] > 2.25 * gaps[2]


def test_nothing_else_is_touched():
    net = Net().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    ask = mc_dropout(net, 3, seed=0)
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    ask(IMAGES)
    assert torch.equal(torch.rand(2), expected)  # the caller's random numbers
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())  # BatchNorm's
    assert all(m.training for m in net.modules())


def test_the_network_is_in_eval_mode_even_after_an_error():
    net = Net().eval()
    ask = mc_dropout(net, 3, seed=0)
    net.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(IMAGES)
    assert not any(m.training for m in net.modules())


@pytest.mark.parametrize("passes", [0, -1])
def test_no_pass_is_no_answer(passes):
    with pytest.raises(ValueError, match=f"passes is {passes}; expected at least 1"):
        mc_dropout(Net(), passes, seed=0)


@pytest.mark.parametrize(
    "net",
    [
        lambda: nn.Conv2d(3, 4, 1),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout2d(0.0)),
        # Its encoder has dropout layers that drop nothing.
        lambda: build_victim(Recipe(decoder_channels=8)),
    ],
    ids=["none", "of share 0", "a victim without"],
)
def test_a_network_that_drops_nothing_is_refused(net):
    with pytest.raises(ValueError, match=r"no dropout layer; train one with Recipe\(dropout="):
        mc_dropout(net(), 2, seed=0)


def test_a_victim_with_dropout_can_be_asked():
    net = build_victim(Recipe(decoder_channels=8, n_classes=3, dropout=0.5), seed=1)
    ask, images = mc_dropout(net, 2, seed=0), torch.rand(1, 3, 32, 64, generator=seeded())
    one, two = ask(images), ask(images)
    check_posterior(one.exp())
    assert not torch.equal(one, two)


def test_a_copy_drops_by_its_own_layer(tmp_path):
    # a hook that is a closure would call the first network's layer, in the mode which that is in
    recipe = Recipe(decoder_channels=8, n_classes=3, dropout=0.5)
    net, images = build_victim(recipe, seed=1).eval(), torch.rand(1, 3, 32, 64, generator=seeded())
    quiet = copy.deepcopy(net)
    net.net.dropout.train()
    with torch.no_grad():
        assert not torch.equal(net(images), net(images))
        assert torch.equal(quiet(images), quiet(images))
    path = tmp_path / "net.safetensors"
    digest = save_weights(quiet, path, {"recipe": recipe.model_dump()}, torch.float32)
    one, two = (load_victim(path, digest)[0] for _ in range(2))
    ask = mc_dropout(one, 1, seed=0)
    assert not torch.equal(ask(images), ask(images))
    for loaded in (one, two):
        assert torch.allclose(posteriors(loaded, images), posteriors(quiet, images), atol=1e-6)
    with torch.no_grad():
        one.net.dropout.train()
        assert not torch.equal(one(images), one(images)) and torch.equal(two(images), two(images))
    next(two.parameters()).data += 1
    third = load_victim(path, digest)[0]
    assert torch.allclose(posteriors(third, images), posteriors(quiet, images), atol=1e-6)
