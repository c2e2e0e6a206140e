"""The canvas of a street scene: camera, light, annotator; sky, ground and upright planes."""

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


PPM = 12  # façade textures: pixels per metre
# [height * PPM, length * PPM], glazed, see-through: either float32, a multiplier of the colour, or
# complex64, the multiplier and the glass, so that one look-up finds both; see-through: glass < 0
Texture = tuple[np.ndarray, bool, bool]


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
    """Colour and label picture of twice the final size, with its camera, light and annotator."""

    def __init__(self, rng: np.random.Generator, city: City, height: int, width: int) -> None:
        self.rng, self.city = rng, city
        self.h, self.w = 2 * height, 2 * width
        u = rng.random(12).tolist()  # Python's numbers: NumPy's scalars take five times as long
        self.f = self.w * (0.75 + 0.35 * u[0])
        self.cx = self.w * (0.5 + 0.16 * (u[1] - 0.5))
        self.hy = self.h * (0.42 + 0.1 * (u[2] - 0.5))
        self.eye = 1.25 + 0.4 * u[3]
        self.bend = 0.0012 * float(rng.standard_normal()) if u[4] < 0.5 else 0.0
        self.half = city.road[0] + (city.road[1] - city.road[0]) * u[5]
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
        self.reach = between(rng, 1, 7)  # metres of shade in front of the façades
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
        """The label a human gives an object `size` picture rows high; None is left out."""
        u = (self.rng.random(), self.rng.random())
        if size < 2 * SMALL and u[0] < LEFT_OUT:
            return None
        rate = FACADE_CONFUSION if label == BUILDING else CONFUSION
        if label in LOOK_ALIKES and u[1] < rate:
            return pick(self.rng, LOOK_ALIKES[label])
        return label

    def start_objects(self) -> None:
        """From arrays to Pillow: the ground and the façades are done, objects follow."""
        self.picture = Image.merge("RGB", [Image.fromarray(plane) for plane in self.rgb])
        self.mask = Image.fromarray(self.lab)
        self._ink, self._label = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.mask)

    def poly(self, points: Sequence[Point], ink, label: int | None = None) -> None:
        if ink is not None:
            self._ink.polygon(points, fill=ink)
        if label is not None:
            self._label.polygon(points, fill=label)

    def oval(self, u, v, ru, rv, ink, label: int | None = None, ring: int = 0) -> None:
        box = (u - ru, v - rv, u + ru, v + rv)
        if ring:
            self._ink.ellipse(box, outline=ink, width=ring)
        elif ink is not None:
            self._ink.ellipse(box, fill=ink)
        if label is not None:
            self._label.ellipse(box, fill=label)

    def line(self, points: Sequence[Point], width: float, ink, label: int | None = None) -> None:
        thick = max(1, round(width))
        self._ink.line(points, fill=ink, width=thick)
        if label is not None:
            self._label.line(points, fill=label, width=max(2, thick))


# ---------------------------------------------------------------- sky, ground, façades (arrays)


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
    high = vary(c.rng, zenith, 0.1)
    i, j = c.rng.integers(0, 512, 2)
    thick = window(_clouds(0.05 if c.weather == 0 else 0.2), (i, j), (rows, c.w // 2), 2)
    grey = np.float32(0.95 if c.weather < 3 else 0.45)
    for plane, above, below in zip(c.rgb, high, low, strict=True):
        sky = np.float32(above) * (1 - t) + np.float32(below) * t
        shown = thick * (grey - sky)
        shown += sky
        shown *= 255
        plane[:rows] = doubled(np.clip(shown, 0, 255, out=shown).astype(np.uint8))


def paint_ground(c: Canvas, edges, kinds, colours, shadow: np.ndarray) -> None:
    """Strips between `edges` (x, metres) of class `kinds`, markings, texture and shadows.

    `shadow` float32 [h, w / 2], 1 is dark. Columns are computed at half the resolution.
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
        phase = rng.random() * 6
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
    label = np.array([c.annotate(k) for k in kinds], np.uint8)
    c.lab[top:] = doubled(label.take(of_strip, mode="clip"))


def _fraction(x: np.ndarray) -> np.ndarray:
    """``x % 1``, without its test of every number's sign."""
    return x - np.floor(x)


def paint_wall(
    c: Canvas, a: Point, b: Point, height: float, rgb: Rgb, texture: Texture, label: int,
    facing: float, roof: tuple[float, Rgb] = (0.0, (0, 0, 0)), ragged: float = 0.0, skyline=None,
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
    shift = int(c.rng.random() * 288)
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
    y = np.float32(c.eye) - (v - np.float32(c.hy)) * (z / np.float32(c.f))
    looks, glazed, see_through = texture
    at = (y * PPM).astype(np.int32)
    at *= looks.shape[1]
    at = at + ((s * PPM).astype(np.int32) + shift) % looks.shape[1]
    # what lies above or below the texture is outside, whatever is taken for it
    look = looks.ravel().take(at, mode="clip")
    m, g = (look.real, look.imag) if glazed or see_through else (look, None)
    inside = v >= top
    inside &= v <= limit
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
    whole = inside  # an annotator fills the gaps of a fence
    if see_through:
        inside = whole & (g >= 0)
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
    np.copyto(c.lab[v0:v1, lo:hi], np.uint8(label), where=whole)
    np.minimum(before, top, out=before)
