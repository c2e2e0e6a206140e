"""What becomes of a painted scene: a photograph of it, and the mask that a human draws."""

from __future__ import annotations

import io
from functools import cache
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageFilter

from segleak_utils.data.classes import ROAD, VOID
from segleak_utils.synthstreets.canvas import (
    BOUNDARY_JITTER,
    VOID_BORDER,
    Canvas,
    between,
    noise,
    window,
)


def photograph(c: Canvas) -> np.ndarray:
    """Wet reflections, exposure, lens, sensor and compression; uint8 [h/2, w/2, 3]."""
    height, width = c.h // 2, c.w // 2
    exposure, gamma, blur, (i, j), sensitive, noisy, quality = shot(c.now, height, width)
    small = c.picture.reduce(2)
    if c.wet:
        hy = int(c.hy / 2)
        rows = min(height - hy, hy)
        near = np.linspace(0.4, 0.0, rows, dtype=np.float32)[:, None, None]
        road = np.asarray(c.mask)[2 * hy : 2 * (hy + rows) : 2, ::2, None] == ROAD
        image = np.asarray(small).copy()
        ground = image[hy : hy + rows]
        mirror = image[hy - rows : hy][::-1].astype(np.float32) - ground
        ground += (road * near * mirror).astype(np.int16).astype(np.uint8)  # modulo 256
        small = Image.fromarray(image)
    tone = np.clip(exposure[:, None] * np.linspace(0, 1, 256), 0, 1) ** gamma
    small = small.filter(ImageFilter.BoxBlur(blur))
    image = np.array(small.point(np.rint(255 * tone).astype(int).ravel().tolist()), np.float32)
    seen = window(_grain(), (i, j), (height, width))
    seen *= vignette(height, width)
    for colour in range(3):
        image[..., colour] *= seen
    noisy *= np.float32(255 * sensitive * (1.5 if c.dusk else 1.0))
    image += noisy
    pixels = np.clip(image, 0, 255, out=image).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream, formats=("JPEG",)))


def shot(rng: np.random.Generator, height: int, width: int) -> tuple:
    """What chance decides of a photograph: exposure [3], gamma, blur (pixels), the window of the
    sensor's pattern, its noise at full light and in each pixel, float32 [h, w, 3], and quality."""
    exposure = between(rng, 0.85, 1.2) * (1 + 0.03 * rng.standard_normal(3))
    gamma, blur = between(rng, 0.85, 1.1), 0.15 + 0.45 * rng.random()
    corner, sensitive = rng.integers(0, 512, 2), 0.008 + 0.016 * rng.random()
    noisy = rng.standard_normal((height, width, 3), np.float32)
    return exposure, gamma, blur, corner, sensitive, noisy, int(rng.integers(55, 93))


def annotated(c: Canvas) -> np.ndarray:
    """The mask as a human draws it: displaced boundaries, thin void borders; uint8 [h/2, w/2]."""
    rng, lab = c.now, np.asarray(c.mask)
    height, width = c.h // 2, c.w // 2
    i, j = rng.integers(0, 512, 2)
    shape = (height, width)
    v, u = (window(_jitter(n), (i, j), shape, 2) for n in (7, 8))
    v += 2 * np.arange(height, dtype=np.int32)[:, None]
    u += 2 * np.arange(width, dtype=np.int32)
    v, u = np.clip(v, 0, c.h - 1, out=v), np.clip(u, 0, c.w - 1, out=u)
    v *= c.w
    v += u
    mask = lab.ravel().take(v, mode="clip")
    border = np.zeros(mask.shape, bool)
    border[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    border[1:] |= mask[1:] != mask[:-1]
    border &= window(_thin(), (i, j), shape, 2)
    mask[border] = VOID
    return mask


# what every scene takes a window of; computed once for all


@cache
def _grain() -> np.ndarray:
    """The sensor's uneven pixels, a factor: float32 [512, 512]."""
    return 1 + np.float32(0.02) * noise(6, 512, 0.5)


@cache
def _jitter(number: int) -> np.ndarray:
    """Displacement on the picture of twice the size, whole pixels: int32 [512, 512]."""
    return np.rint(noise(number, 512, 1.7) * (2 * BOUNDARY_JITTER)).astype(np.int32)


@cache
def _thin() -> np.ndarray:
    """Where a boundary is void: bool [512, 512]."""
    return noise(9, 512, 1.5) > NormalDist().inv_cdf(1 - VOID_BORDER)


@cache
def vignette(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (1 - 0.22 * (x * x + y * y) / 2).astype(np.float32)
