"""Façades, walls, hedges and fences: textures, and the upright planes that show them."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from segleak_utils.synthstreets.canvas import Canvas, between, noise
from segleak_utils.synthstreets.styles import Point, Rgb

PPM = 12  # façade textures: pixels per metre
# [height * PPM, length * PPM], glazed, see-through: either float32, a multiplier of the colour, or
# complex64, the multiplier and the glass, so that one look-up finds both; see-through: glass < 0
Texture = tuple[np.ndarray, bool, bool]


@cache
def facade(number: int) -> Texture:
    """Texture of a house front: storeys of windows, shops or doors at the ground."""
    rng = np.random.default_rng([77, number])
    rows, cols = 40 * PPM, 24 * PPM
    mul = 1 + 0.07 * noise(10, 512, 0.6)[:rows, :cols] + 0.06 * noise(11)[:rows, :cols]
    glass = np.zeros((rows, cols), np.float32)
    if number % 3 == 0:  # courses of brick
        mul[::4] *= 0.86
    floor, pitch = between(rng, 2.7, 3.6), 24 / rng.integers(7, 13)
    wide, tall, sill = (
        between(rng, 0.3, 0.75) * pitch,
        between(rng, 1.2, 2.0),
        between(rng, 0.7, 1.0),
    )
    shop = number % 2 == 0

    def window(s: float, y: float, w: float, h: float, frame: float) -> None:
        r, q = slice(int(y * PPM), int((y + h) * PPM)), slice(int(s * PPM), int((s + w) * PPM))
        mul[max(r.start - 1, 0) : r.stop + 1, max(q.start - 1, 0) : q.stop + 1] = frame
        mul[r, q] = between(rng, 0.05, 0.25)
        glass[r, q] = between(rng, 0.05, 0.5) * np.linspace(0.7, 1.2, len(mul[r, q]))[:, None]
        if w > 0.8:
            glass[r, q.start + (q.stop - q.start) // 2] = 0.6 * frame

    frame = between(rng, 0.7, 1.25)
    for level in range(int(40 / floor)):
        y = level * floor
        for k in range(round(24 / pitch)):
            s = k * pitch + (pitch - wide) / 2
            if level:
                window(s, y + sill, wide, min(tall, floor - sill - 0.2), frame)
            elif shop:
                window(k * pitch + 0.2, 0.4, pitch - 0.4, 2.1, 0.5)
                tone = between(rng, 0.4, 1.3)
                band = slice(int(2.6 * PPM), int(3.0 * PPM))
                mul[band, int(k * pitch * PPM) : int((k + 1) * pitch * PPM)] *= tone
            elif rng.random() < 0.3:
                window(s + wide / 4, 0.05, 1.0, 2.1, 0.55)
            else:
                window(s, sill + 0.1, wide, min(tall, 1.5), frame)
        if level:
            mul[int(y * PPM) : int(y * PPM) + 2] *= between(rng, 0.8, 1.12)
    mul[: PPM // 2] *= 0.75
    return _both(mul, glass), True, False


@cache
def plain(kind: str) -> Texture:
    """Texture of a `wall`, `hedge` or one of two fences; glass < 0 is see-through."""
    rows, cols = 40 * PPM, 24 * PPM
    mul, glass = 1 + 0.12 * noise(12, 512, 0.7)[:rows, :cols], None
    if kind == "wall":
        mul[::6] *= 0.8
        mul[::12, ::9] *= 0.8
    elif kind == "hedge":
        mul = 0.85 + 0.4 * noise(13, 512, 0.8)[:rows, :cols]
    elif kind == "rails":
        glass = np.full((rows, cols), -1, np.float32)
        glass[:, ::5] = glass[:, 1::5] = 0
        glass[2:4] = glass[11:13] = 0
    else:  # planks
        mul[:, ::3] *= 0.7
        mul *= 1 + 0.15 * np.repeat(noise(14)[0, : cols // 3], 3)[None]
    if kind == "rails":
        return _both(mul, glass), False, True
    return mul.astype(np.float32), False, False


def _both(mul: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """The multiplier as real part, the glass as imaginary part, complex64."""
    both = np.empty(mul.shape, np.complex64)
    both.real, both.imag = mul, glass
    return both


def paint_wall(
    c: Canvas, rng: np.random.Generator, a: Point, b: Point, height: float, rgb: Rgb,
    texture: Texture, label: int, facing: float, roof: tuple[float, Rgb] = (0.0, (0, 0, 0)),
    ragged: float = 0.0, skyline=None,
) -> None:  # fmt: skip
    """A textured upright plane over the ground line from `a` to `b` (x, z).

    Walls come from near to far: `skyline` [w] holds the topmost row painted so far in each
    column; only what rises above it is painted, and it is raised.
    """
    skyline = c.skyline if skyline is None else skyline
    ua, ub = c.project(*a)[0], c.project(*b)[0]
    lo, hi = max(0, math.ceil(min(ua, ub))), min(c.w, math.ceil(max(ua, ub)))
    if hi <= lo:
        return
    shift = int(rng.random() * 288)
    # most of what is hidden is so by far: its highest corner is under the lowest skyline
    rises = height + roof[0] + 5 * ragged - c.eye
    if rises > 0 and c.hy - c.f * rises / min(a[1], b[1]) > np.maximum.reduce(skyline[lo:hi]) + 1:
        return
    # 1/z and (metres along)/z are linear in the picture column
    t = (c.columns[lo:hi] - np.float32(ua)) / np.float32(ub - ua)
    z = 1 / (1 / a[1] + t * np.float32(1 / b[1] - 1 / a[1]))
    length = math.dist(a, b)
    s = t * z
    s *= np.float32(length / b[1])
    rise = height
    if roof[0]:
        rise = rise + np.float32(roof[0]) * np.minimum(np.minimum(s, length - s) / 2, 1)
    if ragged:
        rise = (
            rise + np.float32(ragged) * noise(5, 512, 1.0)[shift, (s * 14).astype(np.int32) & 511]
        )
    top = np.float32(c.hy) + np.float32(c.f) * (np.float32(c.eye) - rise) / z
    seen = (top < skyline[lo:hi]).nonzero()[0]
    if not len(seen):
        return
    keep = slice(seen[0], seen[-1] + 1)
    lo, hi = lo + keep.start, lo + keep.stop
    z, s, top, before = z[keep], s[keep], top[keep], skyline[lo:hi]
    if a[1] == b[1]:  # across the street: one depth for all columns
        z = z[:1]
    limit = np.minimum(before, np.float32(c.hy) + np.float32(c.f * c.eye) / z)
    v0, v1 = max(0, int(np.minimum.reduce(top))), min(c.h, math.ceil(np.maximum.reduce(limit)))
    if v1 <= v0:
        return
    v = c.rows[v0:v1]
    inside = v >= top
    inside &= v <= limit
    # an annotator fills the gaps of a fence
    np.copyto(c.lab[v0:v1, lo:hi], np.uint8(label), where=inside)
    np.minimum(before, top, out=before)
    if not c.coloured:
        return
    y = np.float32(c.eye) - (v - np.float32(c.hy)) * (z / np.float32(c.f))
    looks, glazed, see_through = texture
    at = (y * PPM).astype(np.int32)
    at *= looks.shape[1]
    at = at + ((s * PPM).astype(np.int32) + shift) % looks.shape[1]
    # what lies above or below the texture is outside, whatever is taken for it
    look = looks.ravel().take(at, mode="clip")
    m, g = (look.real, look.imag) if glazed or see_through else (look, None)
    fade = 255 * np.exp(-z / np.float32(c.sight))
    over = 0  # rows that hold some roof
    if roof[0]:
        eaves = np.float32(c.hy) + np.float32(c.f) * np.float32(c.eye - height) / z
        over = max(0, math.ceil(np.maximum.reduce(eaves)) - v0)
        upper = v[:over] < eaves
        if over and glazed:
            np.copyto(g[:over], 0, where=upper)
    y *= np.float32(0.083)
    y += np.float32(0.75)
    m = m * np.minimum(y, 1, out=y)  # less light near the ground
    if see_through:
        inside &= g >= 0
    own, lights = np.array(rgb, np.float32), c.light(facing)
    lit = np.array([k * light for k, light in zip(rgb, lights, strict=True)], np.float32)
    shown = m * (lit[:, None, None] * fade)
    if over:
        tile = np.array(roof[1], np.float32) / own
        shown[:, :over] *= np.where(upper, tile[:, None, None], np.float32(1))
    if glazed:
        shown += g * (c.glow * fade)
    shown += (255 - fade) * c.haze
    np.minimum(shown, 255, out=shown)
    np.copyto(c.rgb[:, v0:v1, lo:hi], shown, where=inside, casting="unsafe")
