"""Who answers: any object, any file; what was said of the answers is held against them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segleak_utils.audit.config import Answers, Data
from segleak_utils.audit.models import Model, imported, starts
from segleak_utils.audit.networks import network
from segleak_utils.audit.pictures import Picture

C, H, W = 3, 32, 48
IMAGES = torch.rand(2, 3, H, W, generator=torch.Generator().manual_seed(0))
LOGITS = 3 * torch.randn(2, C, H, W, generator=torch.Generator().manual_seed(1))
PICTURES = [Picture(f"p{i}", Path(f"p{i}.png"), None, True) for i in range(2)]


class Net(nn.Module):
    """Logits by brightness; after a pooling, so that neighbours matter."""

    def __init__(self, wrap=lambda out: out, channels: int = C, coarse: int = 1) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.wrap, self.coarse = wrap, coarse
        with torch.no_grad():
            self.body.weight.copy_(torch.arange(27.0 * channels).view(channels, 3, 3, 3).sin())
            self.body.bias.zero_()

    def forward(self, images):
        out = self.norm(self.body(images))
        return self.wrap(nn.functional.avg_pool2d(out, self.coarse) if self.coarse > 1 else out)


def asked(model: object, returns: str = "logits", n_classes: int = C, stride: int = 1, **told):
    tile = told.pop("tile", None)
    of = network(Answers(returns=returns, **told), n_classes, model=model, tile=tile)
    found, at = of.posteriors(IMAGES, PICTURES, stride)
    assert at == stride
    return found


def expected(net: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()(IMAGES)


class Object:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (lambda out: out, {}),
        (lambda out: {"out": out, "aux": out[:, :1]}, {}),
        (Object, {}),
        (lambda out: (out,), {}),
        (lambda out: {"seg": out}, {}),
        (lambda out: (out[:, :1], out), {"output": 1}),
        (lambda out: {"a": out[:, :1], "b": out}, {"output": "b"}),
        (lambda out: out.movedim(1, -1), {"layout": "channels_last"}),
    ],
)
def test_a_model_of_any_library_answers(wrap, told):
    found = asked(Net(wrap), **told)
    assert torch.allclose(found, expected(Net()).softmax(1), atol=1e-6)


@pytest.mark.parametrize(
    ("returns", "make"),
    [
        ("logits", lambda z: z), ("probabilities", lambda z: z.softmax(1)),
        ("log_probabilities", lambda z: z.log_softmax(1)),
    ],
)  # fmt: skip
def test_answers_are_what_was_said(returns, make):
    found = asked(lambda images: make(LOGITS), returns)
    assert torch.allclose(found, LOGITS.softmax(1), atol=1e-6)
    coarse = asked(lambda images: make(LOGITS), returns, stride=4)
    assert torch.equal(coarse, found[..., ::4, ::4])


@pytest.mark.parametrize(
    ("returns", "make", "message"),
    [
        ("logits", lambda z: z.softmax(1), "these are probabilities, say so by answers.returns"),
        ("logits", lambda z: z.sigmoid(), "sigmoids of classes that do not exclude each other"),
        ("probabilities", lambda z: z, "these may be logits"),
        ("probabilities", lambda z: z.sigmoid(), "a pixel's sum is off by"),
        ("log_probabilities", lambda z: z, "these may be logits"),
        ("log_probabilities", lambda z: -z.abs(), "a pixel's sum is off by"),
        ("logits", lambda z: z / 0, "NaN or infinite"),
        ("logits", lambda z: z.argmax(1, keepdim=True), "is torch.int64; expected floats"),
        ("logits", lambda z: z.movedim(1, -1), "seem to come last, say so by answers.layout"),
        ("logits", lambda z: z[:, :2], "has 2 classes, the data have 3"),
        ("logits", lambda z: z[:1], r"is \[1, 3, 32, 48\] for 2 images"),
        ("logits", lambda z: {"a": z, "b": z}, "several things.*say which one by answers.output"),
        ("logits", lambda z: "text", "is a str; expected floats"),
    ],
)
def test_answers_that_are_not_what_was_said_are_refused(returns, make, message):
    with pytest.raises(ValueError, match=message):
        asked(lambda images: make(LOGITS), returns)


@pytest.mark.parametrize(
    ("returns", "make"), [("logits", lambda z: z), ("probabilities", torch.sigmoid)]
)
@pytest.mark.parametrize("squeezed", [True, False])
def test_one_number_a_pixel_is_that_of_the_second_of_two_classes(returns, make, squeezed):
    z = LOGITS[:, :1]
    found = asked(lambda images: make(z)[:, 0] if squeezed else make(z), returns, n_classes=2)
    assert torch.allclose(found[:, 1:], z.sigmoid(), atol=1e-6)
    with pytest.raises(ValueError, match="these are probabilities"):
        asked(lambda images: z.sigmoid(), "logits", n_classes=2)


def test_coarse_answers_are_brought_to_the_images_grid():
    found = asked(Net(coarse=4))
    assert found.shape == (2, C, H, W)
    coarse = asked(Net(coarse=4), stride=2)
    assert torch.equal(coarse, found[..., ::2, ::2])


def test_a_network_is_asked_in_eval_mode_and_left_as_it_was():
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    asked(net)
    assert net.training and net.norm.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_images_go_in_as_was_told():
    seen = []

    def model(images):
        seen.append(images)
        return LOGITS

    asked(model, mean=(0.5, 0.25, 0), std=(0.5, 1, 2), scale=255, order="BGR")
    mean, std = torch.tensor([0.5, 0.25, 0]), torch.tensor([0.5, 1, 2])
    wanted = (IMAGES.flip(1) - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1) * 255
    assert torch.allclose(seen[0], wanted)


def test_tiles_cover_the_image_and_agree_where_the_network_is_local():
    class Local(nn.Module):  # a pixel's answer is its own: tiles must not be seen
        def forward(self, images):
            return images * 7 - 3

    whole = asked(Local())
    for tile in ((16, 20), (32, 48), (40, 64)):
        assert torch.allclose(asked(Local(), tile=tile), whole, atol=1e-6), tile
    assert starts(8, 8) == [0] and starts(9, 4) == [0, 4, 5]


@pytest.mark.parametrize("returns", ["logits", "log_probabilities", "probabilities"])
@pytest.mark.parametrize("tile", [None, (16, 20), (11, 13), (40, 64)])
def test_the_pixels_kept_are_those_of_the_whole_answer(tile, returns):
    answer = {
        "logits": lambda images: images.roll(1, -1) * 7 - 3,
        "log_probabilities": lambda images: (images.roll(1, -1) * 7).log_softmax(1),
        "probabilities": lambda images: (images.roll(1, -1) * 7).softmax(1),
    }[returns]
    whole = asked(answer, returns=returns, tile=tile)
    for stride in (2, 3, 5, 19):  # 19: some tiles have no pixel that is kept
        some = asked(answer, returns=returns, tile=tile, stride=stride)
        assert torch.allclose(some, whole[..., ::stride, ::stride], atol=1e-6), stride


def test_a_module_names_a_network_or_what_makes_one(tmp_path):
    (tmp_path / "mine_for_audit.py").write_text(
        "import torch\nfrom torch import nn\n"
        "net = nn.Conv2d(3, 3, 1)\n"
        "def make():\n    return nn.Conv2d(3, 3, 1)\n"
        "class Net(nn.Conv2d):\n    def __init__(self):\n        super().__init__(3, 3, 1)\n"
        "def answer(images):\n    return images * 5\n"
        "number = 3\n"
    )
    for name in ("net", "make", "Net", "answer"):
        told = Answers(model=f"mine_for_audit:{name}", returns="logits")
        of = network(told, C, base=tmp_path)
        assert of.posteriors(IMAGES, PICTURES, 1)[0].shape == (2, C, H, W), name
    for name, message in (
        ("mine_for_audit:gone", "has no gone"),
        ("mine_for_audit", "package.module:name"),
        ("mine_for_audit:number", "expected a callable"),
        ("nowhere_at_all:x", "cannot be imported"),
    ):
        with pytest.raises(ValueError, match=message):
            network(Answers(model=name, returns="logits"), C, base=tmp_path)
    assert imported("math:sqrt")(4) == 2
    of = network(Answers(model="mine_for_audit:net", returns="logits"), C, base=tmp_path)
    before = of.identity(IMAGES[0])
    with (tmp_path / "mine_for_audit.py").open("a") as file:
        file.write("number = 4  # what a network may use outside of its class\n")
    of = network(Answers(model="mine_for_audit:net", returns="logits"), C, base=tmp_path)
    assert of.identity(IMAGES[0]) != before


def test_a_device_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match="'cuda:7' is not there; this machine has"):
        network(Answers(returns="logits", device="cuda:7"), C, model=Net())
    for name in ("gpu", "meta"):
        with pytest.raises(ValueError, match=f"'{name}' is not there"):
            network(Answers(returns="logits", device=name), C, model=Net())


def test_a_network_that_takes_other_images_says_so():
    with pytest.raises(ValueError, match=r"does not take images \[2, 3, 32, 48\].*data.size"):
        asked(nn.Conv2d(1, C, 1))


# ---- identity ------------------------------------------------------------------------------------


def test_identity_follows_from_weights_options_and_answers():
    def key(model, **told):
        return network(Answers(returns="logits", **told), C, model=model).identity(IMAGES[0])

    net = Net()
    assert key(net) == key(net)
    other = Net()
    with torch.no_grad():
        other.body.bias += 1
    keys = {key(net), key(other), key(net, scale=2), key(net, order="BGR")}
    keys |= {key(lambda x: x * 7 - 3), key(lambda x: x * 7 - 4)}
    assert len(keys) == 6


# ---- files of networks ---------------------------------------------------------------------------


def of_file(path: Path, images: torch.Tensor = IMAGES, **told: object) -> torch.Tensor:
    of = network(Answers(file=path, returns="logits", **told), C)
    assert len(of.sha256) == 64
    return of.posteriors(images, PICTURES, 1)[0]


@pytest.mark.parametrize("fixed", [False, True])
def test_an_exported_program_answers(tmp_path, fixed):
    net = Net().eval()
    shapes = None if fixed else ({0: torch.export.Dim("n", min=1, max=64)},)
    program = torch.export.export(net, (IMAGES,), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    assert torch.allclose(of_file(tmp_path / "net.pt2"), expected(net).softmax(1), atol=1e-5)
    odd = of_file(tmp_path / "net.pt2", IMAGES[:1])  # fewer than it was exported with
    assert torch.allclose(odd, expected(net)[:1].softmax(1), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_answers(tmp_path):
    net = Net().eval()
    torch.jit.trace(net, IMAGES).save(tmp_path / "net.pt")
    assert torch.allclose(of_file(tmp_path / "net.pt"), expected(net).softmax(1), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fixed", [False, True])
def test_onnx_answers(tmp_path, fixed):
    pytest.importorskip("onnxruntime")
    net = Net().eval()
    shapes = None if fixed else ({0: torch.export.Dim("n", min=1, max=64)},)
    torch.onnx.export(net, (IMAGES,), tmp_path / "net.onnx", dynamic_shapes=shapes, verbose=False)
    assert torch.allclose(of_file(tmp_path / "net.onnx"), expected(net).softmax(1), atol=1e-4)
    assert of_file(tmp_path / "net.onnx", IMAGES[:1]).shape == (1, C, H, W)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_beside_an_onnx_file_are_part_of_it_and_what_it_refuses_is_said(tmp_path):
    pytest.importorskip("onnxruntime")
    torch.onnx.export(Net().eval(), (IMAGES,), tmp_path / "net.onnx", verbose=False)
    told = Answers(file=tmp_path / "net.onnx", returns="logits")
    before = network(told, C).identity(IMAGES[0])
    with pytest.raises(ValueError, match=r"net.onnx does not take images .* InvalidArgument: "):
        of_file(tmp_path / "net.onnx", IMAGES[..., :40])
    weights = bytearray((tmp_path / "net.onnx.data").read_bytes())  # a training later
    weights[3] ^= 1
    (tmp_path / "net.onnx.data").write_bytes(weights)
    assert network(told, C).identity(IMAGES[0]) != before


def test_a_file_that_takes_whole_numbers_gets_0_to_255(tmp_path):
    class Bytes(Net):
        def forward(self, images):
            return super().forward(images.float() / 255)

    images = (255 * IMAGES).round()
    program = torch.export.export(Bytes().eval(), (images.byte(),))
    torch.export.save(program, tmp_path / "net.pt2")
    wanted = Net().eval()(images / 255).softmax(1)
    found = of_file(tmp_path / "net.pt2", images / 255, scale=255)
    assert torch.allclose(found, wanted, atol=1e-5)
    for told in ({}, {"scale": 255, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}):
        with pytest.raises(
            ValueError, match=r"net.pt2 takes .*whole numbers \(uint8\).*scale: 255"
        ):
            of_file(tmp_path / "net.pt2", **told)


@pytest.mark.parametrize("name", ["net.pt2", "net.pt", "net.onnx"])
def test_files_that_hold_no_network_are_refused(tmp_path, name):
    torch.save(Net().state_dict(), tmp_path / name)
    with pytest.raises(ValueError, match=r"cannot be read as .* weights alone is no network"):
        of_file(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="is not there"):
        of_file(tmp_path / f"no-{name}")
    with pytest.raises(ValueError, match=r"expected \.pt2, \.pt, \.ts, \.onnx"):
        (tmp_path / "net.pth").touch()
        of_file(tmp_path / "net.pth")


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.drop = nn.Conv2d(3, C, 1), nn.Dropout2d(0.5)

    def forward(self, images):
        return self.drop(self.body(images))


def write_network(net: nn.Module, path: Path, n: int) -> None:
    example = torch.rand(n, 3, H, W)
    if path.suffix == ".pt2":
        torch.export.save(torch.export.export(net, (example,)), path)
    else:
        torch.jit.trace(net, example, check_trace=False).save(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", ["net.pt2", "net.pt"])
@pytest.mark.parametrize("make", [Net, Dropping])
def test_files_written_in_training_mode_are_refused(tmp_path, make, name, n):
    write_network(make().train(), tmp_path / name, n)
    with pytest.raises(ValueError, match=rf"{name} was written in training mode .*call .eval\(\)"):
        network(Answers(file=tmp_path / name, returns="logits"), C)
    write_network(make().eval(), tmp_path / name, n)
    assert of_file(tmp_path / name).shape == (2, C, H, W)


def test_a_scripted_network_is_put_in_eval_mode(tmp_path):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.norm = nn.Conv2d(3, C, 1), nn.BatchNorm2d(C)

        def forward(self, images):
            return self.norm(self.body(images))

    net = Plain().train()
    torch.jit.script(net).save(tmp_path / "net.pt")
    found = of_file(tmp_path / "net.pt")
    assert torch.allclose(found, expected(net).softmax(1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_half_precision_answer(tmp_path, dtype):
    net = Net().eval()
    wanted = expected(net).softmax(1)
    half = Net().to(dtype).eval()
    assert (asked(half) - wanted).abs().max() < 0.1
    program = torch.export.export(half, (IMAGES.to(dtype),))
    torch.export.save(program, tmp_path / "net.pt2")
    assert (of_file(tmp_path / "net.pt2") - wanted).abs().max() < 0.1


@pytest.mark.filterwarnings("ignore")
def test_frozen_torchscript_in_half_precision_answers(tmp_path):
    net = Net().eval()
    traced = torch.jit.trace(Net().half().eval(), IMAGES.half())
    torch.jit.freeze(traced).save(tmp_path / "net.pt")  # without parameters
    assert (of_file(tmp_path / "net.pt") - expected(net).softmax(1)).abs().max() < 0.1


# ---- networks that cannot be audited as they are -----------------------------------------------


def steady(model: object, **told: object) -> None:
    network(Answers(returns="logits", **told), C, model=model).check(IMAGES, 2)


def test_a_network_that_answers_by_the_images_beside_is_refused():
    net = Net().train()
    net.requires_grad_(False)
    callables = (lambda images: net(images), nn.BatchNorm2d(C, track_running_stats=False))
    for model in callables:
        with pytest.raises(ValueError, match=r"answers otherwise when asked beside another image"):
            steady(model)
        steady(model, batch=1)
    steady(Net())  # a module is put in eval mode


def test_a_network_that_answers_by_chance_is_refused_unless_that_is_said():
    def dropping(images):
        return nn.functional.dropout(3 * images, 0.5)

    with pytest.raises(ValueError, match=r"answers otherwise when asked again .*answers.random"):
        steady(dropping)
    steady(dropping, random=True)
    steady(lambda images: 3 * images + 1e-6 * torch.randn(images.shape))  # other kernels


class Halving(nn.Module):
    """An encoder and a decoder that takes sides which are multiples of 32 alone."""

    def __init__(self, part: int = 32, coarse: int = 1):
        super().__init__()
        self.part, self.coarse, self.sides = part, coarse, []

    def forward(self, images):
        self.sides.append(tuple(images.shape[-2:]))
        if any(side % self.part for side in images.shape[-2:]):
            raise RuntimeError(f"expected multiples of {self.part}")
        out = images * 7 - 3
        return nn.functional.avg_pool2d(out, self.coarse) if self.coarse > 1 else out


@pytest.mark.parametrize("returns", ["logits", "probabilities"])
def test_sides_that_a_network_refuses_are_padded(returns):
    images = torch.rand(2, 3, 50, 70)
    net = Halving()
    model = net if returns == "logits" else lambda x: net(x).softmax(1)
    of = network(Answers(returns=returns), C, model=model)
    for stride in (1, 3):
        found, _ = of.posteriors(images, PICTURES, stride)
        wanted = (images * 7 - 3).softmax(1)[..., ::stride, ::stride]
        assert found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-6)
    assert net.sides == [(50, 70), (64, 96), (64, 96)]  # refused once, not at every batch
    coarse = network(Answers(returns="logits"), C, model=Halving(coarse=4))
    assert coarse.posteriors(images, PICTURES, 1)[0].shape == (2, C, 50, 70)
    with pytest.raises(ValueError, match=r"\[2, 3, 50, 70\].*multiples of 64"):
        network(Answers(returns="logits"), C, model=Halving(64)).posteriors(images, PICTURES, 1)


@pytest.mark.slow
def test_segmentation_models_answer_at_any_size():
    import segmentation_models_pytorch as smp

    net = smp.FPN("resnet18", encoder_weights=None, classes=C)
    images = torch.rand(1, 3, 50, 70)
    of = network(Answers(returns="logits"), C, model=net)
    padded = nn.functional.pad(images, (0, 26, 0, 14), mode="replicate")
    with torch.no_grad():
        wanted = net.eval()(padded).softmax(1)[..., :50, :70]
    assert torch.allclose(of.posteriors(images, PICTURES, 1)[0], wanted, atol=1e-5)


# ---- networks of libraries -----------------------------------------------------------------------


@pytest.mark.slow
def test_torchvision_answers():
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large as deeplab
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large as lraspp

    for make in (lraspp, deeplab):
        net = make(weights=None, weights_backbone=None, num_classes=C)
        found = asked(net)
        assert torch.allclose(found, expected(net)["out"].softmax(1), atol=1e-5)


@pytest.mark.slow
def test_transformers_answer():
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16, num_labels=C,
    )  # fmt: skip
    net = transformers.SegformerForSemanticSegmentation(config)
    assert expected(net).logits.shape == (2, C, H // 4, W // 4)
    logits = nn.functional.interpolate(expected(net).logits, (H, W), mode="bilinear")
    assert torch.allclose(asked(net), logits.softmax(1), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_upernet_and_mask2former_of_transformers_answer():
    transformers = pytest.importorskip("transformers")
    stages = ["stage1", "stage2", "stage3", "stage4"]
    small = {"depths": [1] * 4, "out_features": stages}
    body = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], **small)
    upernet = transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(
            backbone_config=body, hidden_size=16, num_labels=C, use_auxiliary_head=False
        )
    )
    assert torch.allclose(asked(upernet), expected(upernet).logits.softmax(1), atol=1e-5)
    body = transformers.SwinConfig(
        image_size=32, embed_dim=32, num_heads=[1] * 4, window_size=2, **small
    )
    wide = {"feature_size": 64, "mask_feature_size": 64, "hidden_dim": 64, "num_queries": 5}
    config = transformers.Mask2FormerConfig(
        backbone_config=body, num_attention_heads=2, encoder_layers=1, decoder_layers=2,
        num_labels=C, encoder_feedforward_dim=16, dim_feedforward=16, **wide,
    )  # fmt: skip
    net = transformers.Mask2FormerForUniversalSegmentation(config)
    found, theirs = asked(net, "probabilities"), transformers.Mask2FormerImageProcessor()
    labels = theirs.post_process_semantic_segmentation(expected(net), target_sizes=[(H, W)] * 2)
    for mine, other in zip(found.argmax(1), labels, strict=True):
        assert (mine == other).float().mean() > 0.999


def test_queries_of_mask2former_are_put_together():
    classes, masks = torch.randn(2, 5, C + 1), torch.randn(2, 5, 8, 12)
    out = type("Output", (), {"class_queries_logits": classes, "masks_queries_logits": masks})()
    found = asked(lambda images: out, "probabilities")
    scores = torch.zeros(2, C, 8, 12)
    for q in range(5):
        share = classes[:, q].softmax(-1)[:, :C, None, None]
        scores += share * masks[:, q : q + 1].sigmoid()
    share = scores / scores.sum(1, keepdim=True)
    assert torch.allclose(
        found, nn.functional.interpolate(share, (H, W), mode="bilinear"), atol=1e-5
    )
    with pytest.raises(ValueError, match="these are probabilities"):
        asked(lambda images: out, "logits")


# ---- answers on file -----------------------------------------------------------------------------


def write(folder: Path, kind: str, values: torch.Tensor, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    array = values.numpy()
    path = folder / f"{name}.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "npz":
        np.savez(path, posterior=array)
    elif kind == "safetensors":
        from safetensors.numpy import save_file

        save_file({"posterior": array}, path)
    else:
        zarr = pytest.importorskip("zarr")
        zarr.save_array(str(path), array)
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "zarr"])
@pytest.mark.parametrize("half", [True, False])
def test_posteriors_on_file_answer(tmp_path, kind, half):
    posterior = LOGITS.softmax(1)
    for i, of in enumerate(posterior.half() if half else posterior):
        write(tmp_path, kind, of, f"p{i}")
    of = network(Answers(posteriors=tmp_path, returns="probabilities"), C)
    found, stride = of.posteriors(IMAGES, PICTURES, 2)
    assert stride == 2 and torch.allclose(found, posterior[..., ::2, ::2], atol=2e-3)
    assert torch.allclose(found.sum(1), torch.ones(()), atol=1e-5)


def test_posteriors_on_file_may_be_coarse_and_have_their_classes_last(tmp_path):
    coarse = LOGITS.softmax(1)[..., ::3, ::3]
    for i, of in enumerate(coarse):
        write(tmp_path, "npy", of.movedim(0, -1).contiguous(), f"p{i}")
    told = {"posteriors": tmp_path, "returns": "probabilities"}
    of = network(Answers(**told, layout="channels_last"), C)
    found, stride = of.posteriors(IMAGES, PICTURES, 2)
    assert stride == 3 and torch.allclose(found, coarse, atol=1e-6)
    assert of.posteriors(IMAGES, PICTURES, 6)[1] == 6
    with pytest.raises(ValueError, match=r"p0.npy has .*say so by answers.layout: channels_last"):
        network(Answers(**told), C).posteriors(IMAGES, PICTURES, 2)


def test_label_maps_on_file_are_certain(tmp_path):
    labels = LOGITS.argmax(1)
    for i, of in enumerate(labels):
        Image.fromarray(of.byte().numpy()).save(tmp_path / f"p{i}.png")
    of = network(Answers(labels=tmp_path), C)
    found, _ = of.posteriors(IMAGES, PICTURES, 1)
    assert (
        of.labels_only
        and torch.equal(found.argmax(1), labels)
        and found.unique().tolist() == [0, 1]
    )
    with pytest.raises(ValueError, match=r"p0.png: predicted class 2; expected 0..1"):
        network(Answers(labels=tmp_path), 2).posteriors(IMAGES, PICTURES, 1)


def test_predicted_ids_are_labels_or_as_the_masks_are_stored(tmp_path):
    stored = LOGITS.argmax(1) * 2 + 1  # ids 1, 3, 5
    for i, of in enumerate(stored):
        Image.fromarray(of.byte().numpy()).save(tmp_path / f"p{i}.png")
    data = Data(n_classes=C, mapping={1: 0, 3: 1, 5: 2, 7: 2})
    with pytest.raises(
        ValueError, match=r"answers.ids: with data.mapping .*labels \(0..2\), or st"
    ):
        network(Answers(labels=tmp_path), C, data=data)
    of = network(Answers(labels=tmp_path, ids="stored"), C, data=data)
    assert torch.equal(of.posteriors(IMAGES, PICTURES, 1)[0].argmax(1), LOGITS.argmax(1))
    with pytest.raises(ValueError, match=r"p0.png: predicted class \d; expected 0..2"):
        labels = network(Answers(labels=tmp_path, ids="labels"), C, data=data)
        labels.posteriors(IMAGES, PICTURES, 1)
    with pytest.raises(ValueError, match=r"p0.png: void is predicted"):
        void = data.model_copy(update={"mapping": {1: 0, 3: 1}, "void": 5})
        network(Answers(labels=tmp_path, ids="stored"), C, data=void).posteriors(
            IMAGES, PICTURES, 1
        )
    same = Data(n_classes=C, mapping={0: 0, 1: 1, 2: 2})
    assert network(Answers(labels=tmp_path), C, data=same).labels_only


def test_predicted_label_maps_of_several_palettes_are_refused(tmp_path):
    for i, table in enumerate(([0, 0, 0, 255, 0, 0], [255, 0, 0, 0, 0, 0])):
        labels = Image.fromarray((LOGITS[i].argmax(0) % 2).byte().numpy()).convert("P")
        labels.putpalette(table)
        labels.save(tmp_path / f"p{i}.png")
    of = network(Answers(labels=tmp_path), C)
    of.refuse_shared(PICTURES[:1])
    with pytest.raises(ValueError, match=r"p0.png and .*p1.png have different palettes"):
        of.refuse_shared(PICTURES)


@pytest.mark.parametrize("folder", ["", "a/"])
def test_names_that_are_composed_otherwise_are_found(tmp_path, folder):
    one, other = "e\u0301", "\u00e9"
    for image, answer in ((one, other), (other, one), (one, one)):
        answers = tmp_path / f"{len(image)}{len(answer)}"
        (answers / folder).mkdir(parents=True, exist_ok=True)
        write(answers / folder, "npy", LOGITS[0].softmax(0), answer)
        of = network(Answers(posteriors=answers, returns="probabilities"), C)
        picture = Picture(f"{folder}{image}.png", tmp_path / f"{image}.png", None, True)
        assert of.file_of(picture).stem == answer


def test_one_file_is_no_answer_to_two_pictures(tmp_path):
    ids = ["a/p.png", "b/p.png"]
    pictures = [Picture(of, tmp_path / "images" / of, None, True) for of in ids]
    answers = tmp_path / "answers"
    write(answers, "npy", LOGITS[0].softmax(0), "p")
    told = Answers(posteriors=answers, returns="probabilities")
    of = network(told, C)
    of.refuse_shared(pictures[:1])
    of.refuse_shared(pictures[:1])
    with pytest.raises(ValueError, match=r"p.npy would be the answer to both .*a/p.png and .*b/p"):
        of.refuse_shared(pictures)
    for k, name in enumerate("ab"):
        write(answers / name, "npy", LOGITS[k].softmax(0), "p")
    of = network(told, C)
    of.refuse_shared(pictures)
    found, _ = of.posteriors(IMAGES, pictures, 1)
    assert torch.allclose(found, LOGITS.softmax(1), atol=1e-6)
    write(answers / "a", "npz", LOGITS[1].softmax(0), "p")
    with pytest.raises(ValueError, match=r"p.npy and .*p.npz have the same stem; remove one"):
        of.file_of(pictures[0])
    outside = Picture("../p.png", tmp_path / "p.png", None, True)
    assert of.file_of(outside) == answers / "p.npy"


def test_a_chunk_that_is_written_anew_is_another_network(tmp_path):
    path = write(tmp_path, "zarr", LOGITS[0].softmax(0), "p0")
    told = Answers(posteriors=tmp_path, returns="probabilities")
    before = network(told, C).identity(IMAGES[0])
    chunk = next(of for of in sorted(path.rglob("*")) if of.is_file() and of.suffix != ".json")
    os.utime(chunk, ns=(1, 1))
    assert network(told, C).identity(IMAGES[0]) != before


def test_files_that_do_not_answer_are_named(tmp_path):
    told = Answers(posteriors=tmp_path, returns="probabilities")
    with pytest.raises(ValueError, match="no answers"):
        network(told, C)
    write(tmp_path, "npy", LOGITS[0].softmax(0), "p0")
    with pytest.raises(FileNotFoundError, match="no answer for p1"):
        network(told, C).posteriors(IMAGES, PICTURES, 1)
    for values, message in (
        (LOGITS[1], "p1.npy was said to be probabilities"),
        (LOGITS[1].softmax(0)[:, :7], "has a grid of 7x48 for an image of 32x48"),
        (LOGITS[1].long(), "p1.npy: int64"),
        (torch.full_like(LOGITS[1], torch.nan), "p1.npy holds NaN"),
    ):
        write(tmp_path, "npy", values, "p1")
        with pytest.raises(ValueError, match=message):
            network(told, C).posteriors(IMAGES, PICTURES, 1)
    (tmp_path / "p1.npy").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"p1.npy: cannot be read"):
        network(told, C).posteriors(IMAGES, PICTURES, 1)


def test_a_changed_file_is_another_network(tmp_path):
    write(tmp_path, "npy", LOGITS[0].softmax(0), "p0")
    told = Answers(posteriors=tmp_path, returns="probabilities")
    before = network(told, C).identity(IMAGES[0])
    assert network(told, C).identity(IMAGES[0]) == before
    write(tmp_path, "npy", LOGITS[0, :, ::2, ::2].softmax(0), "p0")
    assert network(told, C).identity(IMAGES[0]) != before


@pytest.mark.parametrize(
    ("told", "model", "message"),
    [
        ({}, None, "answers: give one of model, file, posteriors, labels, scores"),
        ({}, Net(), "answers.returns: say what the model gives"),
        ({"labels": "x"}, Net(), "a model was handed over, and answers.labels"),
    ],
)
def test_who_answers_has_to_be_clear(told, model, message):
    with pytest.raises(ValueError, match=message):
        network(Answers(**told), C, model=model)
    assert Model.labels_only is False
