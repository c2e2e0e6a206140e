"""Things in a street: trees, people, two-wheelers, vehicles, posts; painted as polygons.

Every function stands its thing at x (metres to the right) and z (metres ahead), draws its colours
and shape from the canvas's generator, and paints picture and annotation at once.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from segleak_utils.data.classes import (
    BICYCLE,
    BUS,
    CAR,
    LIGHT,
    MOTORCYCLE,
    PERSON,
    POLE,
    RIDER,
    SIGN,
    TRAIN,
    TRUCK,
    VEGETATION,
    VOID,
)
from segleak_utils.synthstreets.canvas import Canvas, between, noise, pick, vary
from segleak_utils.synthstreets.styles import Point, Rgb

GREYS = np.arange(256)[:, None]


@cache
def crown(number: int) -> tuple[Image.Image, ...]:
    """(shade, opacity, annotated outline) of a leafy crown, 128x128 `L` pictures."""
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    coarse, fine = noise(20 + number, 128, 1.2), noise(40 + number, 128, 0.5)
    body = 0.8 - np.hypot(x, y) + 0.16 * coarse + 0.06 * fine
    shade = 0.55 - 0.28 * y - 0.12 * x + 0.14 * coarse + 0.1 * fine
    outline = (gaussian_filter(body, 5) > -0.02) * 1.0  # no annotator follows every leaf
    planes = (shade, body * 9, outline)
    return tuple(Image.fromarray(np.clip(a * 255, 0, 255).astype(np.uint8)) for a in planes)


def tree(c: Canvas, x: float, z: float) -> None:
    rng = c.rng
    high, wide = between(rng, 4, 9), between(rng, 2.5, 5.5)
    stem = between(rng, 0.25, 0.45) * high
    bush = rng.random() < 0.2
    if bush:
        high, wide, stem = between(rng, 0.8, 1.8), between(rng, 1, 2.5), 0.0
    k = c.f / z
    label = c.annotate(VEGETATION, high * k)
    u, v = c.project(x, z)
    if not bush:
        c.line([(u, v), (u + between(rng, -2, 2), v - 1.3 * stem * k)], 0.28 * k,
               c.shade(vary(rng, (0.25, 0.2, 0.16)), z), label)  # fmt: skip
    tint = vary(rng, pick(rng, c.city.leaves), 0.12)
    for part in range(1 if bush or z > 35 else 3):
        size = 1.0 if part == 0 else between(rng, 0.5, 0.75)
        du, dv = (0, 0) if part == 0 else (between(rng, -0.3, 0.3), between(rng, -0.1, 0.35))
        pu, pv = wide * k * size, (high - stem) * k * size * 1.15
        left = u + du * wide * k - pu / 2
        top = v - high * k + dv * (high - stem) * k
        stamp(c, left, top, pu, pv, tint, z, label)


def stamp(c: Canvas, left, top, wide, high, tint: Rgb, z: float, label: int | None) -> None:
    """Paste a crown, resampling only what lies inside the picture."""
    x0, y0 = max(0, int(left)), max(0, int(top))
    x1, y1 = min(c.w, int(left + wide)), min(c.h, int(top + high))
    if x1 - x0 < 1 or y1 - y0 < 1:
        return
    sprite = crown(int(c.rng.random() * 12))
    box = tuple(
        min(128.0, max(0.0, 128 * value))
        for value in ((x0 - left) / wide, (y0 - top) / high, (x1 - left) / wide, (y1 - top) / high)
    )
    size = (x1 - x0, y1 - y0)
    if c.coloured:
        shade, body = (p.resize(size, Image.Resampling.BILINEAR, box=box) for p in sprite[:2])
        dark, bright = c.shade((0, 0, 0), z), c.shade(tuple(2.0 * v for v in tint), z, 0.7)
        dark, bright = np.array(dark), np.array(bright)
        shade.putpalette((dark + (bright - dark) * GREYS // 255).astype(np.uint8).tobytes())
        c.picture.paste(shade.convert("RGB"), (x0, y0), body)
    if label is not None:
        outline = sprite[2].resize(size, Image.Resampling.BILINEAR, box=box)
        c.mask.paste(label, (x0, y0), outline.convert("1", dither=Image.Dither.NONE))


def person(c: Canvas, x: float, z: float, label: int | None = -1, seat: float = 0.0) -> None:
    """A pedestrian, or a rider when `seat` is the height of the saddle."""
    rng = c.rng
    k = c.f / z
    tall = between(rng, 1.5, 1.9) if not seat else between(rng, 1.25, 1.4)
    if label == -1:
        label = c.annotate(PERSON, tall * k)
    u, v = c.project(x, z, seat * 0.6)
    a = tall * k
    coats = ((0.1, 0.1, 0.13), (0.25, 0.25, 0.3), (0.5, 0.12, 0.12), (0.15, 0.25, 0.45),
             (0.6, 0.58, 0.55), (0.35, 0.3, 0.22), (0.75, 0.7, 0.2))  # fmt: skip
    coat, legs = vary(rng, pick(rng, coats), 0.15), vary(rng, pick(rng, coats[:4]), 0.1)
    lit, dim = c.shade(coat, z, 0.7), c.shade(coat, z, 0.1)
    trousers = c.shade(legs, z, 0.3)
    step, lean = between(rng, -0.12, 0.12) * a, between(rng, -0.03, 0.03) * a
    hip, neck = v - 0.5 * a, v - 0.84 * a
    for foot in (-step, step):
        c.poly([(u - 0.07 * a, hip), (u + 0.07 * a, hip), (u + foot + 0.045 * a, v),
                (u + foot - 0.045 * a, v)], trousers, label)  # fmt: skip
    w = between(rng, 0.1, 0.14) * a
    skirt = hip + between(rng, -0.02, 0.15) * a
    c.poly([(u - w + lean, neck), (u + w + lean, neck), (u + w, skirt), (u - w, skirt)], lit, label)
    c.poly([(u + lean, neck), (u + w + lean, neck), (u + w, skirt), (u + w / 2, skirt)], dim)
    c.oval(u + lean, neck + 0.03 * a, w, 0.05 * a, lit, label)
    for arm in (-1, 1):
        swing = between(rng, -0.04, 0.06) * a
        c.line([(u + arm * w + lean, neck + 0.03 * a), (u + arm * (w + swing), hip)], 0.055 * a,
               dim, label)  # fmt: skip
    head = c.shade(vary(rng, pick(rng, ((0.75, 0.55, 0.45), (0.35, 0.22, 0.16))), 0.1), z)
    hair = c.shade(pick(rng, ((0.1, 0.08, 0.06), (0.5, 0.4, 0.25), (0.8, 0.8, 0.8))), z)
    c.oval(u + lean, v - 0.92 * a, 0.06 * a, 0.08 * a, head, label)
    c.oval(u + lean, v - 0.95 * a, 0.06 * a, 0.05 * a, hair)


def two_wheeler(c: Canvas, x: float, z: float, motor: bool, ridden: bool) -> None:
    rng = c.rng
    k = c.f / z
    label = c.annotate(MOTORCYCLE if motor else BICYCLE, 1.1 * k)
    u, v = c.project(x, z)
    paints = ((0.5, 0.1, 0.1), (0.1, 0.1, 0.12), (0.1, 0.2, 0.45), (0.6, 0.6, 0.6))
    paint = c.shade(vary(rng, pick(rng, paints), 0.15), z)
    dark = c.shade((0.07, 0.07, 0.08), z)
    r = 0.33 * k
    if rng.random() < (0.3 if ridden else 0.75):  # from the side
        d = (0.62 if motor else 0.54) * k
        for wheel in (-d, d):
            c.oval(u + wheel, v - r, r, r, dark, label, max(1, int((0.12 if motor else 0.05) * k)))
        top = v - (0.95 if motor else 0.9) * k
        body = [(u - d, v - r), (u - d * 0.4, top + 0.15 * k), (u + d * 0.6, top + 0.1 * k),
                (u + d, v - r), (u, v - 0.25 * k)]  # fmt: skip
        if motor:  # tank and seat, the engine under them
            c.poly(body, dark, label)
            c.poly([(u - d, top + 0.12 * k), (u - 0.1 * k, top + 0.22 * k), (u + d * 0.2, top),
                    (u + d * 0.7, top + 0.2 * k), (u, top + 0.45 * k)], paint, label)  # fmt: skip
            c.oval(u, v - 0.35 * k, 0.16 * k, 0.13 * k, c.shade((0.35, 0.35, 0.36), z))
        else:
            c.poly(body, None, label)
            c.line([*body, body[0], body[2]], 0.05 * k, paint)
        c.line([(u + d * 0.6, top + 0.1 * k), (u + d * 0.5, top - 0.08 * k)], 0.06 * k, dark, label)
        c.line([(u - d * 0.6, top + 0.1 * k), (u - d * 0.1, top + 0.1 * k)], 0.09 * k, dark, label)
    else:  # from behind
        wide = (0.14 if motor else 0.05) * k
        c.oval(u, v - r, max(wide, 1), r, dark, label)
        body = [(u - 1.6 * wide, v - 0.5 * k), (u + 1.6 * wide, v - 0.5 * k),
                (u + wide, v - 0.95 * k), (u - wide, v - 0.95 * k)]  # fmt: skip
        c.poly(body, paint, label)
        c.line([(u - 0.3 * k, v - k), (u + 0.3 * k, v - k)], 0.06 * k, dark, label)
        if motor:
            c.oval(u, v - 0.8 * k, 0.07 * k, 0.05 * k, c.shade((0.8, 0.1, 0.08), z))
    if ridden:
        person(c, x, z, c.annotate(RIDER, 1.3 * k), 0.75)


SIZES = {CAR: (1.8, 1.5, 4.3), TRUCK: (2.4, 3.2, 8.0), BUS: (2.5, 3.1, 11.0), TRAIN: (2.5, 3.4, 26)}


def vehicle(c: Canvas, x: float, z: float, kind: int, away: bool, across: bool = False) -> None:
    """Car, truck, bus or tram: a flank and an end; `across` shows the flank alone."""
    rng = c.rng
    scale = rng.uniform(0.92, 1.12, 3).tolist()
    wide, high, long = (v * s for v, s in zip(SIZES[kind], scale, strict=True))
    paints = {
        CAR: ((0.08, 0.08, 0.09), (0.45, 0.46, 0.48), (0.75, 0.75, 0.75), (0.4, 0.07, 0.07),
              (0.1, 0.16, 0.35), (0.2, 0.25, 0.22), (0.55, 0.48, 0.38), (0.62, 0.62, 0.6)),
        TRUCK: ((0.75, 0.75, 0.73), (0.2, 0.3, 0.5), (0.5, 0.15, 0.12), (0.35, 0.4, 0.35)),
        BUS: ((0.75, 0.65, 0.15), (0.65, 0.15, 0.13), (0.75, 0.75, 0.73), (0.2, 0.35, 0.5)),
        TRAIN: ((0.75, 0.72, 0.6), (0.6, 0.15, 0.12), (0.2, 0.4, 0.3), (0.75, 0.65, 0.2)),
    }[kind]  # fmt: skip
    rgb = vary(rng, pick(rng, paints), 0.15)
    label = c.annotate(kind, high * c.f / z)
    side = -1.0 if x > c.x0 - c.bend * z * z else 1.0  # the flank we see
    lit = 0.9 if side == c.sun else 0.1
    dark, pane = c.shade((0.06, 0.06, 0.07), z), c.shade(vary(rng, (0.16, 0.19, 0.22), 0.1), z, 0.5)

    def flank(s: float, y: float) -> Point:
        s = s if away else 1 - s
        if across:
            return c.project(x + side * (s - 0.5) * long, z, y * high)
        # the cabin of a car leans inwards
        lean = 1 - 0.6 * max(0.0, y - 0.64) if kind == CAR else 1
        return c.project(x + side * lean * wide / 2, z + s * long, y * high)

    def back(s: float, y: float, ahead: float = 0.0) -> Point:
        return c.project(x + (s - 0.5) * wide, z + ahead * long, y * high)

    def quad(face, s0, s1, y0, y1, ink, mark=None) -> None:
        c.poly([face(s0, y0), face(s0, y1), face(s1, y1), face(s1, y0)], ink, mark)

    body, low = c.shade(rgb, z, lit), c.shade(tuple(0.6 * v for v in rgb), z, lit)
    if kind == CAR:
        van = 0.12 * (rng.random() < 0.25)
        boot = 0.01 if van or rng.random() < 0.5 else between(rng, 0.06, 0.16)
        shape = [(0, 0.14), (0, 0.62), (boot, 0.66), (boot + 0.08, 0.97), (0.34, 1),
                 (0.56 + van, 0.98), (0.74 + van, 0.66), (0.97, 0.56), (1, 0.14)]  # fmt: skip
        c.poly([flank(*p) for p in shape], body, label)
        quad(flank, 0, 1, 0.14, 0.34, low)
        c.poly([flank(*p) for p in ((boot + 0.05, 0.67), (boot + 0.11, 0.92), (0.54 + van, 0.92),
                                    (0.69 + van, 0.67))], pane)  # fmt: skip
        for s in (boot + 0.24, 0.4 + van):
            quad(flank, s, s + 0.025, 0.64, 0.95, body)
        quad(flank, 0.42, 0.425, 0.2, 0.64, low)
        quad(flank, 0.02, 0.95, 0.54, 0.57, c.shade(tuple(1.2 * v for v in rgb), z, lit))
    else:
        cab = 0.24 if kind == TRUCK else 0.0
        quad(flank, 0, 1 - cab, 0.12, 1, body, label)
        if kind == TRUCK:
            cabin = c.shade(vary(rng, pick(rng, paints), 0.15), z, lit)
            quad(flank, 0.78, 1, 0.12, 0.82, cabin, label)
            quad(flank, 0.84, 0.97, 0.48, 0.74, pane)
            quad(flank, 0, 0.78, 0.12, 0.26, dark)
        else:
            quad(flank, 0.02, 0.98, 0.5, 0.82, pane)
            count = 6 if kind == BUS else 12
            for i in range(1, count):
                door = i % 4 == 1
                quad(flank, i / count, i / count + 0.012, 0.14 if door else 0.5, 0.82, dark)
            stripe = c.shade(vary(rng, pick(rng, paints), 0.2), z, lit)
            quad(flank, 0, 1, 0.3, 0.42, stripe)
        quad(flank, 0, 1, 0.08, 0.16, dark, label)
    if kind != TRAIN:
        r = (0.33 if kind == CAR else 0.5) / high
        for s in (0.18, 0.8):
            ds = r * high / long
            (u0, v0), (u1, _) = flank(s - ds, 0), flank(s + ds, 0)
            top = flank(s, 2 * r)[1]
            u, v, ru, rv = (u0 + u1) / 2, (v0 + top) / 2, abs(u1 - u0) / 2, (v0 - top) / 2
            c.oval(u, v, ru, rv, dark, label)
            c.oval(u, v, ru * 0.5, rv * 0.5, c.shade((0.35, 0.35, 0.36), z))
    if across:
        return
    body, low = c.shade(rgb, z, 0.4), c.shade(tuple(0.65 * v for v in rgb), z, 0.3)
    lamp = (0.6, 0.06, 0.05) if away else (0.85, 0.85, 0.8)
    lamps = c.shade(tuple(v * (2.5 if c.dusk else 1.1) for v in lamp), z * 0.5, 0.6)
    for s in (0.06, 0.8):
        quad(back, s, s + 0.14, 0, 0.25, dark, label)
    edge = (0.62 if away else 0.52) if kind == CAR else 1
    quad(back, 0, 1, 0.14, edge, body, label)
    shiny = c.shade(tuple(1.15 * v for v in rgb), z, 0.8)
    wide_lamp, heights = 0.14, (0.2, 0.28)
    if kind == CAR:
        # the window leans from the boot, or from the bonnet, to the roof
        b, t = (boot, boot + 0.08) if away else (0.26 - van, 0.44 - van)
        c.poly([back(0, edge), back(0, 0.66, b), back(1, 0.66, b), back(1, edge)], shiny, label)
        for s, y0, y1, ink in ((0.0, 0.64, 0.97, body), (0.07, 0.68, 0.92, pane)):
            c.poly([back(s, y0, b), back(s + 0.1, y1, t), back(0.9 - s, y1, t), back(1 - s, y0, b)],
                   ink, label)  # fmt: skip
        s, sky = between(rng, 0.15, 0.6), c.shade(tuple(0.35 * v for v in c.pane), z, 0.5)
        c.poly([back(s, 0.7, b), back(s + 0.1, 0.91, t), back(s + 0.25, 0.91, t)], sky)
        roof = [
            back(0.1, 0.97, t),
            back(0.14, 1, t + 0.2),
            back(0.86, 1, t + 0.2),
            back(0.9, 0.97, t),
        ]
        c.poly(roof, shiny, label)
        quad(back, 0, 1, 0.14, between(rng, 0.24, 0.33), low if rng.random() < 0.6 else dark)
        quad(back, 0, 1, edge - 0.05, edge - 0.02, shiny)
        y = 0.2 if not away else between(rng, 0.22, 0.42)
        quad(back, 0.4, 0.6, y, y + 0.07, c.shade((0.6, 0.6, 0.56), z))
        if not away:
            quad(back, 0.24, 0.76, 0.3, 0.42, dark)
        wide_lamp, y = between(rng, 0.08, 0.18), edge - between(rng, 0.08, 0.12)
        heights = (y - between(rng, 0.03, 0.12), y + 0.04)
    else:
        glass = (0.55, 0.88) if kind == BUS and away else (0.42, 0.88)
        if kind == TRUCK and away:
            quad(back, 0.485, 0.515, 0.2, 0.97, low)
            quad(back, 0, 1, 0.14, 0.24, dark)
        else:
            if kind == TRUCK:
                quad(back, 0, 1, 0.14, 0.82, cabin)
                glass = (0.46, 0.76)
            quad(back, 0.06, 0.94, *glass, pane)
            quad(back, 0.1, 0.4, glass[1] - 0.12, glass[1] - 0.02, c.shade(c.pane, z * 2, 0.1))
            quad(back, 0.25, 0.75, 0.9, 0.97, c.shade((0.7, 0.5, 0.1) if c.dusk else (0.1,) * 3, z))
    for s in (0.03, 0.97 - wide_lamp):
        quad(back, s, s + wide_lamp, *heights, lamps)
    if kind == TRAIN:
        c.line([flank(0.4, 1), flank(0.45, 1.25), flank(0.5, 1)], 0.06 * c.f / z, dark)


def post(c: Canvas, x: float, z: float, kind: str) -> None:
    """Lamp post or mast, traffic light, traffic sign."""
    rng = c.rng
    k = c.f / z
    u, v = c.project(x, z)
    high = between(rng, 5, 8) if kind == "lamp" else between(rng, 2.2, 3.4)
    grey = c.shade(vary(rng, pick(rng, ((0.4, 0.41, 0.42), (0.2, 0.23, 0.22))), 0.1), z)
    label = c.annotate(POLE, high * k)
    c.line([(u, v), (u, v - high * k)], between(rng, 0.08, 0.16) * k, grey, label)
    toward = -math.copysign(1.0, x)
    if kind == "lamp":
        if rng.random() < 0.7:
            reach = u + toward * between(rng, 0.8, 2) * k
            c.line([(u, v - high * k), (reach, v - (high + 0.2) * k)], 0.08 * k, grey, label)
            c.oval(reach, v - (high + 0.15) * k, 0.3 * k, 0.1 * k,
                   c.shade((0.95, 0.85, 0.6) if c.dusk else (0.5, 0.5, 0.5), z * 0.5))  # fmt: skip
        return
    top = v - high * k
    if kind == "light":
        if rng.random() < 0.35:  # over the road
            over = u + toward * between(rng, 1.5, 3) * k
            c.line([(u, top - 1.6 * k), (over, top - 1.6 * k)], 0.09 * k, grey, label)
            c.line([(u, top), (u, top - 1.6 * k)], 0.1 * k, grey, label)
            u, top = over, top - 1.4 * k
        w = 0.19 * k
        label = c.annotate(LIGHT, 0.95 * k)
        c.poly([(u - w, top), (u + w, top), (u + w, top + 0.95 * k), (u - w, top + 0.95 * k)],
               c.shade((0.07, 0.08, 0.07), z), label)  # fmt: skip
        on = int(rng.random() * 3)
        for i, lamp in enumerate(((0.95, 0.12, 0.08), (0.95, 0.65, 0.1), (0.1, 0.85, 0.45))):
            ink = c.shade(lamp if i == on else tuple(0.2 * v for v in lamp), z * 0.3, 1.0)
            c.oval(u, top + (0.18 + 0.3 * i) * k, 0.1 * k, 0.1 * k, ink)
        return
    label = c.annotate(SIGN, 0.7 * k)
    r = between(rng, 0.28, 0.45) * k
    red, white, blue = c.shade((0.7, 0.08, 0.08), z, 0.6), c.shade((0.85,) * 3, z, 0.6), c.shade(
        (0.08, 0.2, 0.6), z, 0.6)  # fmt: skip
    shape = rng.random()
    if shape < 0.45:
        ring, core = pick(rng, ((red, white), (blue, blue), (red, red), (red, blue)))
        c.oval(u, top, r, r, ring, label)
        c.oval(u, top, r * 0.7, r * 0.7, core)
        c.poly([(u - r * 0.45, top - r * 0.15), (u + r * 0.45, top - r * 0.15),
                (u + r * 0.45, top + r * 0.15), (u - r * 0.45, top + r * 0.15)],
               white if core != white else c.shade((0.1,) * 3, z))  # fmt: skip
    elif shape < 0.7:
        for q, ink in ((1.15, red), (0.7, white)):
            c.poly([(u - r * q, top + r * q * 0.8), (u + r * q, top + r * q * 0.8),
                    (u, top - r * q)], ink, label if q > 1 else None)  # fmt: skip
    else:
        h = r * between(rng, 0.6, 1.3)
        ink = pick(rng, (blue, white, c.shade((0.75, 0.6, 0.1), z), grey))
        c.poly([(u - r, top - h), (u + r, top - h), (u + r, top + h), (u - r, top + h)], ink, label)
        bar = white if ink != white else blue
        c.line([(u - r * 0.6, top), (u + r * 0.6, top - h * 0.2)], r * 0.25, bar)


def clutter(c: Canvas, x: float, z: float) -> None:
    """Bins, boxes, café tables: street furniture without a class."""
    rng = c.rng
    w, h = between(rng, 0.25, 0.7), between(rng, 0.6, 1.3)
    rgb = vary(rng, pick(rng, ((0.2, 0.3, 0.2), (0.3, 0.3, 0.32), (0.55, 0.45, 0.1))), 0.15)
    a, b, d = c.project(x - w, z), c.project(x + w, z, h), c.project(x + w, z, 0)
    c.poly([a, (a[0], b[1]), b, d], c.shade(rgb, z, 0.5), VOID)
    c.poly([(a[0], b[1]), b, (b[0], b[1] + 4), (a[0], b[1] + 4)], c.shade((0.1,) * 3, z))
