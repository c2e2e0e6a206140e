"""Small public functions of the victims' room, worked by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toy_victims import scenes_of

from segleak_utils import victims
from segleak_utils.data.examples import Examples
from segleak_utils.victims import dpsgd, encoders, processes, store


def test_a_model_is_where_its_weights_are_and_without_any_on_the_cpu():
    assert victims.device_of(nn.Linear(1, 1)) == torch.device("cpu")
    assert victims.device_of(lambda images: images) == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert victims.best_device().type == expected
    assert isinstance(victims.has_bf16(torch.device("cpu")), bool)


def test_alone_this_is_the_first_process_of_one():
    assert (processes.joined(), processes.rank(), processes.world()) == (False, 0, 1)
    assert processes.device() == victims.best_device()


@pytest.mark.slow
def test_deep_features_have_mean_0_and_deviation_1_and_lie_on_the_grid():
    recipe = victims.Recipe(encoder="tu-mobilenetv3_small_050", decoder_channels=8, n_classes=3)
    model = victims.build_victim(recipe)
    images = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    found = victims.deep_features(model, images, (4, 8))
    assert found.shape[0] == 2 and found.shape[2:] == (4, 8)
    live = found.std((2, 3)) > 0
    assert torch.allclose(found.mean((2, 3)), torch.zeros(()), atol=1e-5)
    assert torch.allclose(found.std((2, 3))[live], torch.ones(()), atol=1e-3)


def test_a_checkpoint_of_another_run_is_none_and_its_own_is_loaded(tmp_path):
    model, path = nn.Linear(1, 1, bias=False), tmp_path / "run.pt"
    state = {"identity": "a", "model": {"weight": torch.tensor([[3.0]])}, "epoch": 4}
    torch.save(state, path)
    assert victims.resume(path, "b", model) is None and model.weight.item() != 3
    assert victims.resume(path, "a", model)["epoch"] == 4 and model.weight.item() == 3
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"run\.pt cannot be read .*delete it to start afresh"):
        victims.resume(path, "a", model)


class Pixel(nn.Module):
    """Two classes; the logit of the second one is a weight times the brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.conv.weight.data.zero_()

    def forward(self, images):
        return self.conv(images)


def test_an_images_gradient_is_that_of_its_own_loss():
    """At weights of zero both classes have 1/2: the gradient is (p - y) times the pixel."""
    images = torch.tensor([0.5, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1).contiguous()
    masks = torch.tensor([[[0]], [[1]]])

    def loss(logits, masks):
        return dpsgd.per_image_loss(logits, masks).mean()

    found = dpsgd.image_gradients(Pixel(), images, masks, loss)
    expected = [[-0.25] * 3 + [0.25] * 3, [0.5] * 3 + [-0.5] * 3]
    assert torch.allclose(found, torch.tensor(expected))


def test_few_trained_parameters_are_the_head_and_whatever_has_one_dimension():
    net = nn.Module()
    net.net = nn.Module()
    net.net.encoder, net.net.decoder = nn.Linear(2, 2), nn.Linear(2, 2)
    net.net.segmentation_head = nn.Linear(2, 2)
    parts = {"encoder": "net.encoder", "decoder": "net.decoder", "head": "net.segmentation_head"}
    weights = {key: f"{name}.weight" for key, name in parts.items()}
    biases = {key: f"{name}.bias" for key, name in parts.items()}
    everything = {*weights.values(), *biases.values()}
    assert set(dpsgd.trained_names(net, "all")) == everything
    head_and_decoder = everything - {weights["encoder"], biases["encoder"]}
    assert set(dpsgd.trained_names(net, "decoder")) == head_and_decoder
    assert set(dpsgd.trained_names(net, "few")) == {weights["head"], *biases.values()}


def test_weights_of_an_encoder_are_loaded_into_a_network(tmp_path):
    from safetensors.torch import save_file

    model = SimpleNamespace(net=SimpleNamespace(encoder=nn.Linear(1, 1, bias=False)))
    save_file({"weight": torch.tensor([[2.0]])}, tmp_path / "e.safetensors")
    encoders.load_encoder(model, tmp_path / "e.safetensors", "linear")
    assert model.net.encoder.weight.item() == 2
    with pytest.raises(FileNotFoundError, match="run encoder linear"):
        encoders.load_encoder(model, tmp_path / "none.safetensors", "linear")


def test_a_recorded_victim_gives_the_answer_of_each_image(tmp_path):
    scenes = scenes_of(2)
    files = []
    for i, p in enumerate((0.25, 0.75)):
        posterior = np.full((19, *scenes.shape), (1 - p) / 18, np.float32)
        posterior[3] = p
        np.save(tmp_path / f"{i}.npy", posterior)
        files.append(tmp_path / f"{i}.npy")
    of = Examples(tmp_path, scenes.subset([0]), scenes.subset([1]), {"sgd": files}, "print")
    model = victims.recorded(of, "sgd")
    for i, p in enumerate((0.25, 0.75)):
        found = victims.posteriors(model, scenes[i][0][None])
        assert torch.allclose(found[0, 3], torch.tensor(p), atol=1e-6)
    with pytest.raises(FileNotFoundError, match="no pred_dpsgd"):
        victims.recorded(of, "dpsgd")


def test_a_store_is_known_by_network_scenes_and_stride(tmp_path, monkeypatch):
    scenes = scenes_of(2)
    keys = [
        store.identity_of("a", scenes),
        store.identity_of("b", scenes),
        store.identity_of("a", scenes.subset([1, 0])),
        store.identity_of("a", scenes, stride=4),
    ]
    assert len(set(keys)) == 4 and store.identity_of("a", scenes_of(2)) == keys[0]
    of = store.Store(tmp_path, 10, 19, (128, 256), 32, keys[0])
    told = store.announce(of, "victim", n_missing=5, seconds=12)
    assert "5 of 10 images" in told and "19x128x256" in told and "about 1.0 minutes" in told
    store.check_space(tmp_path, 1)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    store.check_space(tmp_path, 9 * 10**8)
    with pytest.raises(ValueError, match=r"1\.00 GB will be written, 1\.00 GB are free"):
        store.check_space(tmp_path, 10**9)
