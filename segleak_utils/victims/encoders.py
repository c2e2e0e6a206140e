"""ImageNet weights of an encoder: fetched by an explicit command, loaded from a file."""

from __future__ import annotations

import os
import ssl
import urllib.request
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from segleak_utils.whole import replace_file, sha256


def fetch_encoder(encoder: str, path: Path) -> str:
    """Fetch an encoder's ImageNet weights into a safetensors file; return its SHA-256.

    Nothing calls this by itself. A file that is there is checked and kept. Raises ValueError for
    an encoder without such weights, ConnectionError (within seconds) without a network.
    """
    timms, entry = encoder.startswith("tu-"), smp.encoders.encoders.get(encoder, {})
    source = entry.get("pretrained_settings", {}).get("imagenet")
    if not (timm.models.is_model_pretrained(encoder[3:]) if timms else source):
        raise ValueError(
            f"encoder {encoder!r} has no ImageNet weights in segmentation-models-pytorch; "
            "resnet50 and resnet101 have"
        )
    if path.is_file():
        _fit(smp.encoders.get_encoder(encoder, weights=None), path, encoder)
        return sha256(path)
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    by_hand = (
        f"On a machine with a network run `python3 -m segleak_utils.run encoder {encoder}` and "
        f"copy its file to {path}"
    )
    if not timms:
        url = f"{host}/{source['repo_id']}/resolve/{source['revision']}/model.safetensors"
        by_hand += f", or fetch {url} there"
    try:
        _reach(host)  # the hub's client would try again for half a minute
        net = smp.encoders.get_encoder(encoder, weights=True if timms else "imagenet")
    except Exception as error:
        raise ConnectionError(
            f"the weights of {encoder} cannot be fetched from {host} "
            f"({type(error).__name__}: {error}). {by_hand}"
        ) from error
    tensors = {name: value.contiguous() for name, value in net.state_dict().items()}
    replace_file(path, lambda part: save_file(tensors, part))
    return sha256(path)


def _reach(url: str) -> None:
    """Raise OSError unless something answers there within five seconds."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        pass  # an answer, too
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # the client has certificates of its own
            raise


def load_encoder(model: nn.Module, path: Path, encoder: str) -> None:
    """Put an encoder's weights, as `fetch_encoder` stores them, into a network that is built.

    Raises FileNotFoundError that names the command, ValueError for a file of another encoder.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no encoder weights at {path}; get them with `python3 -m segleak_utils.run encoder "
            f"{encoder}`, or set encoder_weights to null to start from random ones"
        )
    _fit(model.net.encoder, path, encoder)


def _fit(net: nn.Module, path: Path, encoder: str) -> None:
    try:
        net.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()
        raise ValueError(
            f"{path} does not hold the weights of {encoder} ({' '.join(reason[:2])[:300]}); remove "
            f"it and run `python3 -m segleak_utils.run encoder {encoder}`"
        ) from error
