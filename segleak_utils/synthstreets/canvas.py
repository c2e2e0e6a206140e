"""The canvas of a street scene: camera, light, annotator; sky and ground."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate

import numpy as np
from PIL import Image, ImageDraw

from segleak_utils.data.classes import (
    BICYCLE,
    BUILDING,
    BUS,
    CAR,
    FENCE,
    LIGHT,
    MOTORCYCLE,
    PERSON,
    RIDER,
    ROAD,
    SIDEWALK,
    SIGN,
    SKY,
    TERRAIN,
    TRAIN,
    TRUCK,
    VEGETATION,
    WALL,
)
from segleak_utils.synthstreets.styles import City, Point, Rgb

BOUNDARY_JITTER = 0.9  # standard deviation of the displacement, pixels of the final picture
VOID_BORDER = 0.12  # share of the boundary pixels that are void
CONFUSION = 0.05  # share of instances and regions with a look-alike's class
FACADE_CONFUSION = 0.02  # the same for a building: a scene has ten or more, and they are large
LEFT_OUT = 0.25  # share of small objects without a label
SMALL = 7.0  # height in pixels under which an object may be left out
LOOK_ALIKES = {
    SIDEWALK: (TERRAIN,), BUILDING: (WALL,), WALL: (BUILDING, FENCE), FENCE: (WALL, BUILDING),
    LIGHT: (SIGN,), SIGN: (LIGHT,), VEGETATION: (TERRAIN,), TERRAIN: (VEGETATION, SIDEWALK),
    PERSON: (RIDER,), RIDER: (PERSON,), CAR: (TRUCK,), TRUCK: (BUS, CAR), BUS: (TRUCK, TRAIN),
    TRAIN: (BUS, TRUCK), MOTORCYCLE: (BICYCLE,), BICYCLE: (MOTORCYCLE,),
}  # fmt: skip


@cache
def noise(number: int, size: int = 512, slope: float = 1.0) -> np.ndarray:
    """Tileable 1/f^slope noise, float32 [size, size], mean 0, standard deviation 1."""
    white = np.fft.rfft2(np.random.default_rng(number).standard_normal((size, size)))
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    field = np.fft.irfft2(white / np.maximum(np.hypot(fx, fy), 1 / size) ** slope, (size, size))
    return ((field - field.mean()) / field.std()).astype(np.float32)


def window(
    field: np.ndarray, start: tuple[int, int], shape: tuple[int, int], step: int = 1
) -> np.ndarray:
    """`shape` values of a tileable field from `start` on, every `step`-th row and column."""
    seen = np.empty(shape, field.dtype)
    for to_rows, rows in _runs(start[0], shape[0], step, field.shape[0]):
        for to_columns, columns in _runs(start[1], shape[1], step, field.shape[1]):
            seen[to_rows, to_columns] = field[rows, columns]
    return seen


def _runs(start: int, count: int, step: int, size: int) -> Iterator[tuple[slice, slice]]:
    """(places in the window, places in the field) of `count` steps around a ring of `size`."""
    done, start = 0, int(start)
    while done < count:
        run = min(count - done, -((start - size) // step))
        yield slice(done, done + run), slice(start, start + run * step, step)
        done, start = done + run, (start + run * step) % size


def pick(rng: np.random.Generator, items: Sequence):
    return items[int(rng.random() * len(items))]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """What ``rng.uniform(low, high)`` draws, in a third of its time."""
    return low + (high - low) * rng.random()


def vary(rng: np.random.Generator, rgb: Rgb, amount: float = 0.08) -> Rgb:
    """A colour of one's own: brightness and hue vary."""
    u = rng.random(4).tolist()
    k, (a, b, c) = 1 + 2 * amount * (u[0] - 0.5), [amount * (v - 0.5) for v in u[1:]]
    return (rgb[0] * k + a, rgb[1] * k + b, rgb[2] * k + c)


class Canvas:
    """Colour and label picture of twice the final size, with its camera, light and annotator.

    rng: of what stays in a street; now: of camera, light and all that moves (the same, if None).
    Without `coloured` there are labels alone, by the same random numbers, in half the time.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        city: City,
        height: int,
        width: int,
        careful: bool = False,
        now: np.random.Generator | None = None,
        coloured: bool = True,
    ) -> None:
        self.rng, self.city, self.careful, self.coloured = rng, city, careful, coloured
        self.now = rng if now is None else now
        self.h, self.w = 2 * height, 2 * width
        u = self.now.random(12).tolist()  # Python's numbers: NumPy's take five times as long
        lasting = u if now is None else rng.random(12).tolist()
        self.f = self.w * (0.75 + 0.35 * u[0])
        self.cx = self.w * (0.5 + 0.16 * (u[1] - 0.5))
        self.hy = self.h * (0.42 + 0.1 * (u[2] - 0.5))
        self.eye = 1.25 + 0.4 * u[3]
        self.bend = 0.0012 * float(rng.standard_normal()) if lasting[4] < 0.5 else 0.0
        self.half = city.road[0] + (city.road[1] - city.road[0]) * lasting[5]
        self.x0 = self.half * (0.25 + 0.3 * u[6])
        self.weather = bisect_left([*accumulate(city.weather)], u[7] * 0.999)
        clear, overcast, haze, rain, dusk = (kind == self.weather for kind in range(5))
        self.wet, self.dusk = bool(rain), bool(dusk)
        self.sun = -1.0 if u[8] < 0.5 else 1.0  # side the sun stands on
        self.direct = (0.55 + 0.3 * u[9]) if clear else 0.05 if not dusk else 0.12
        base = 0.5 if clear else 0.75 if overcast or haze else 0.55 if rain else 0.36
        warmth = 0.1 * (u[10] - 0.4) + (0.08 if dusk else 0)
        self.ambient = (base * (1 + warmth), base * 1.0, base * (1.04 - warmth))
        self.sunlight = (self.direct * 1.08, self.direct * 1.0, self.direct * 0.86)
        sight = 45 if haze else 90 if rain else 160 if overcast else 260
        self.sight = sight * (0.6 + 0.8 * u[11])
        self.fog = {0: (0.7, 0.77, 0.86), 1: (0.72, 0.73, 0.74), 2: (0.75, 0.76, 0.76),
                    3: (0.58, 0.6, 0.63), 4: (0.42, 0.36, 0.4)}[self.weather]  # fmt: skip
        self.pane = (0.75, 0.55, 0.25) if dusk else tuple(0.7 * v for v in self.fog)
        self.reach = between(self.now, 1, 7)  # metres of shade in front of the façades
        self.cobbled = rng.random() < city.cobbles
        self.rails = -0.45 * self.half if rng.random() < city.rails else 0.0  # x of a tram track
        self.cross = between(rng, 12, 40) if rng.random() < 0.45 else 0.0  # z of a side street
        self.skyline = np.full(self.w, self.h, np.float32)  # nothing is painted yet
        self.rows = np.arange(self.h, dtype=np.float32)[:, None]
        self.columns = np.arange(self.w, dtype=np.float32)
        # what windows and air add to a wall, [3, 1, 1]
        self.glow, self.haze = (
            np.array(rgb, np.float32)[:, None, None] for rgb in (self.pane, self.fog)
        )
        # a plane a colour: innermost loops over three colours would take most of the time
        self.rgb = np.zeros((3, self.h, self.w), np.uint8)
        self.lab = np.full((self.h, self.w), SKY, np.uint8)

    def apart(self, source: np.random.Generator) -> np.random.Generator:
        """What a wall or thing is painted by: where a street is seen more than once, numbers of
        its own, so that it looks the same whatever else is in view."""
        return source if self.now is self.rng else np.random.default_rng(source.integers(2**62))

    def project(self, x: float, z: float, y: float = 0.0) -> Point:
        """World (x to the right, z ahead, y up; metres) → picture (u, v)."""
        k = self.f / z
        return self.cx + k * (x - self.x0 + self.bend * z * z), self.hy + k * (self.eye - y)

    def light(self, facing: float) -> Rgb:
        """Light on a face: 1 turned to the sun, 0 away from it."""
        return tuple(a + facing * s for a, s in zip(self.ambient, self.sunlight, strict=True))

    def shade(self, rgb: Rgb, z: float, facing: float = 0.4) -> tuple[int, int, int]:
        t = math.exp(-z / self.sight)
        (r, g, b), (r0, g0, b0), (r1, g1, b1) = rgb, self.ambient, self.sunlight
        air, (r2, g2, b2) = 1 - t, self.fog
        red = int(255 * (t * r * (r0 + facing * r1) + air * r2))
        green = int(255 * (t * g * (g0 + facing * g1) + air * g2))
        blue = int(255 * (t * b * (b0 + facing * b1) + air * b2))
        if 0 <= red < 256 and 0 <= green < 256 and 0 <= blue < 256:
            return red, green, blue
        return tuple([0 if value < 0 else min(value, 255) for value in (red, green, blue)])

    def annotate(self, label: int, size: float = 1e9) -> int | None:
        """The label a human gives an object `size` picture rows high; None is left out.

        Who is `careful` takes nothing for its look-alike, and draws the same numbers all the same.
        """
        u = (self.now.random(), self.now.random())
        if size < 2 * SMALL and u[0] < LEFT_OUT:
            return None
        rate = FACADE_CONFUSION if label == BUILDING else CONFUSION
        if label in LOOK_ALIKES and u[1] < rate:
            taken_for = pick(self.now, LOOK_ALIKES[label])
            return label if self.careful else taken_for
        return label

    def start_objects(self) -> None:
        """From arrays to Pillow: the ground and the façades are done, objects follow."""
        self.mask = Image.fromarray(self.lab)
        self._label = ImageDraw.Draw(self.mask)
        if self.coloured:
            self.picture = Image.merge("RGB", [Image.fromarray(plane) for plane in self.rgb])
            self._ink = ImageDraw.Draw(self.picture)

    def poly(self, points: Sequence[Point], ink, label: int | None = None) -> None:
        if ink is not None and self.coloured:
            self._ink.polygon(points, fill=ink)
        if label is not None:
            self._label.polygon(points, fill=label)

    def oval(self, u, v, ru, rv, ink, label: int | None = None, ring: int = 0) -> None:
        box = (u - ru, v - rv, u + ru, v + rv)
        if ring and self.coloured:
            self._ink.ellipse(box, outline=ink, width=ring)
        elif ink is not None and self.coloured:
            self._ink.ellipse(box, fill=ink)
        if label is not None:
            self._label.ellipse(box, fill=label)

    def line(self, points: Sequence[Point], width: float, ink, label: int | None = None) -> None:
        thick = max(1, round(width))
        if self.coloured:
            self._ink.line(points, fill=ink, width=thick)
        if label is not None:
            self._label.line(points, fill=label, width=max(2, thick))


# ------------------------------------------------------------------------- sky, ground (arrays)


def doubled(columns: np.ndarray) -> np.ndarray:
    """Every column uint8 [h, w] twice: [h, 2w]."""
    return (columns.astype(np.uint16) * np.uint16(257)).view(np.uint8)


@cache
def _clouds(least: float) -> np.ndarray:
    """How thick the clouds are, 0 to 0.6: float32 [512, 512]."""
    return np.clip(noise(1, 512, 1.6) * 0.35 + least, 0, 0.6)


def paint_sky(c: Canvas) -> None:
    """Gradient and clouds."""
    rows = max(1, min(c.h, int(c.hy) + 4))
    zenith = {0: (0.3, 0.5, 0.82), 1: (0.78, 0.8, 0.83), 2: (0.8, 0.8, 0.79),
              3: (0.55, 0.58, 0.62), 4: (0.2, 0.22, 0.36)}[c.weather]  # fmt: skip
    low = (0.85, 0.55, 0.42) if c.dusk else np.minimum(np.array(c.fog) * 1.12, 1)
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None] ** 1.4
    high = vary(c.now, zenith, 0.1)
    i, j = c.now.integers(0, 512, 2)
    if not c.coloured:
        return  # the canvas is all sky at first
    thick = window(_clouds(0.05 if c.weather == 0 else 0.2), (i, j), (rows, c.w // 2), 2)
    grey = np.float32(0.95 if c.weather < 3 else 0.45)
    for plane, above, below in zip(c.rgb, high, low, strict=True):
        sky = np.float32(above) * (1 - t) + np.float32(below) * t
        shown = thick * (grey - sky)
        shown += sky
        shown *= 255
        plane[:rows] = doubled(np.clip(shown, 0, 255, out=shown).astype(np.uint8))


def paint_ground(c: Canvas, edges, kinds, colours, shadow: np.ndarray | None) -> None:
    """Strips between `edges` (x, metres) of class `kinds`, markings, texture and shadows.

    `shadow` float32 [h, w / 2], 1 is dark; None where nothing is coloured. Columns are computed at
    half the resolution.
    """
    rng = c.rng
    top = max(0, int(c.hy) + 1)
    v = np.arange(top, c.h, dtype=np.float32)[:, None]
    z = np.float32(c.f * c.eye) / np.maximum(v - np.float32(c.hy), np.float32(0.4))
    u = np.arange(0.5, c.w, 2, dtype=np.float32)[None] - np.float32(c.cx)
    x = u * (z / np.float32(c.f)) + (np.float32(c.x0) - np.float32(c.bend) * z * z)
    i, j = rng.integers(0, 512, 2)
    tu, tv = (x * 9).astype(np.intp) + j, ((z * 9).astype(np.intp) + i) & 511
    fine = noise(2, 512, 0.3).ravel().take((tv << 9) + (tu & 511), mode="clip")
    far = ((z * 2).astype(np.intp) + i) & 511
    coarse = noise(3, 512, 1.3).ravel().take((far << 9) + ((tu >> 2) & 511), mode="clip")
    ragged = x + 0.08 * coarse if TERRAIN in kinds else x
    strip = np.zeros(x.shape, np.uint8)
    for edge, left, right in zip(edges, kinds, kinds[1:], strict=False):
        strip += (ragged if TERRAIN in (left, right) else x) > np.float32(edge)
    if c.cross:
        strip[(z[:, 0] > c.cross) & (z[:, 0] < c.cross + 7)] = kinds.index(ROAD)
    road, of_strip = strip == kinds.index(ROAD), strip.astype(np.intp)
    phase = 0.0 if c.cobbled else 6 * rng.random()  # of the markings
    label = np.array([c.annotate(k) for k in kinds], np.uint8)
    c.lab[top:] = doubled(label.take(of_strip, mode="clip"))
    if not c.coloured:
        return
    value = fine * (1 / (1 + z / 25))
    value += coarse
    rough = np.array([0.22 if k == TERRAIN else 0.055 for k in kinds], np.float32)
    value *= rough.take(of_strip, mode="clip")
    value += 1
    across = np.abs(x)
    if c.cobbled:
        joint = ((x * 5).astype(np.int32) + (z * 4).astype(np.int32)) & 1
        value -= road * joint * (0.12 / (1 + z / 8))
    paved = np.array([k == SIDEWALK for k in kinds]).take(of_strip, mode="clip")
    slab = (_fraction(x * 1.4) < 0.12) | (_fraction(z * 1.1) < 0.12)
    value -= (slab & paved) * (0.16 / (1 + z / 12))
    value *= 1 - np.float32(0.35) * (np.abs(across - np.float32(c.half)) < 0.12)  # kerbs
    value -= 0.07 * (road & (np.abs(np.abs(x - np.float32(c.x0)) - 0.8) < 0.25))  # wheel tracks
    paint = rail = None
    if not c.cobbled:
        paint = (across < 0.09) & (((z + phase) % 6 < 3) | (phase < 1.5))
        if phase > 3:
            side = c.half - 0.35 - 2.0 * (phase > 4.5)
            paint |= np.abs(across - np.float32(side)) < 0.07
        if c.cross and phase > 2:
            paint |= (np.abs(z - c.cross + 2.2) < 1.5) & (_fraction(x) < 0.5)
        paint = np.flatnonzero(paint & road & (fine + coarse > -1.8))
    if c.rails:
        rail = np.flatnonzero(road & (np.abs(np.abs(x - np.float32(c.rails)) - 0.72) < 0.06))
    blocks = np.sign(noise(4, 512, 1.0)[(z[:, :1] * 0.7).astype(int) & 511, i])
    front = np.float64(edges[-1] if c.sun > 0 else -edges[0])
    sunny = (x * np.float32(c.sun) < front - c.reach * (1 + 0.4 * blocks)) * np.float32(0.72)
    sunny += np.float32(0.03)
    fade = np.exp(-z / np.float32(c.sight))
    dark = (1 - shadow[top:] * np.float32(0.75 if c.weather == 0 else 0.6)) * (255 * fade)
    wet = np.where(road, np.float32(0.7), np.float32(0.85)) if c.wet else None
    palette = np.array(colours, np.float32).T
    lights = zip(palette, (0.3, 0.29, 0.28), c.sunlight, c.ambient, c.fog, strict=True)
    for plane, (own, steel, sunlight, ambient, fog) in zip(c.rgb, lights, strict=True):
        colour = own.take(of_strip, mode="clip")
        colour *= value
        if paint is not None:
            colour.ravel()[paint] = colour.ravel()[paint] * 0.3 + 0.5
        if rail is not None:
            colour.ravel()[rail] = steel
        if wet is not None:
            colour *= wet
        colour *= dark
        lit = sunny * np.float32(sunlight)
        lit += np.float32(ambient)
        colour *= lit
        colour += (255 * (1 - fade)) * np.float32(fog)
        plane[top:] = doubled(np.clip(colour, 0, 255, out=colour).astype(np.uint8))


def _fraction(x: np.ndarray) -> np.ndarray:
    """``x % 1``, without its test of every number's sign."""
    return x - np.floor(x)
