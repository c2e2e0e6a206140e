"""SynthStreets: procedural street scenes with 19 Cityscapes train ids + 255 (void).

A scene depends on nothing but (city, seed, index): `default_rng([seed, index, city.number])` draws
weather, street, objects, camera and annotator, so the scenes of a city are i.i.d. over the index.
Where a street is seen at several moments, `default_rng([seed, index, city.number, moment])` draws
what does not stay.
The world is a ground plane seen by a pinhole camera: x to the right, y up, z ahead (metres).
Everything is painted by depth on a picture of twice the size.

The mask is that of a human annotator, not of the renderer (the rates are in `canvas`):
- boundaries follow a smooth random displacement of about `BOUNDARY_JITTER` pixels,
- a share `VOID_BORDER` of all boundaries is a thin void line,
- a share `CONFUSION` of instances and regions (`FACADE_CONFUSION` of buildings) carries a
  look-alike class (`LOOK_ALIKES`),
- a share `LEFT_OUT` of objects less than `SMALL` pixels high is not annotated at all,
- the bonnet of the recording car and street furniture without a class (bins, boxes) are void.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from segleak_utils.data.classes import (
    BUILDING,
    BUS,
    CAR,
    FENCE,
    ROAD,
    SIDEWALK,
    TERRAIN,
    TRAIN,
    TRUCK,
    VEGETATION,
    VOID,
    WALL,
)
from segleak_utils.synthstreets.canvas import (
    Canvas,
    between,
    paint_ground,
    paint_sky,
    pick,
    vary,
)
from segleak_utils.synthstreets.facades import facade, paint_wall, plain
from segleak_utils.synthstreets.photograph import annotated, photograph, shot
from segleak_utils.synthstreets.styles import CITIES, Point
from segleak_utils.synthstreets.things import (
    SIZES,
    clutter,
    person,
    post,
    tree,
    two_wheeler,
    vehicle,
)

VERSION = 4


def paint_rows(c: Canvas, left: float, right: float) -> None:
    """Plots on both sides and the far end, from near to far; see-through fences at last."""
    rng, city = c.rng, c.city
    names = ("building", "wall", "fence", "hedge", "gap")
    chances = [*accumulate(city.pieces)]
    plots: list[tuple] = []

    def plot(order: float, *wall: object) -> None:
        plots.append((order, c.apart(rng), wall))

    def building(x: float, z: float, side: int, long: float, behind: bool = False) -> None:
        looks = (between(rng, *city.height), vary(rng, pick(rng, city.facades), 0.1),
                 facade(int(rng.integers(18))), c.annotate(BUILDING))  # fmt: skip
        roof = (city.roof * between(rng, 0.2, 1.3), vary(rng, pick(rng, city.roofs)))
        lit = 1.0 if side != c.sun else 0.1
        if long:
            plot(z + long / 2, (x, z), (x, z + long), *looks, lit, roof, 0.0)
        order = z + long / 2 if behind else z
        plot(order, (x, z), (x + side * (12 if long else 16), z), *looks, 0.45, roof, 0.0)

    def green(a: Point, b: Point, high: float) -> None:
        colour = vary(rng, pick(rng, city.leaves))
        plot((a[1] + b[1]) / 2, a, b, high, colour, plain("hedge"),
             c.annotate(VEGETATION), 0.4, (0.0, colour), 0.1 * high)  # fmt: skip

    far = between(rng, 45, 130)
    for side, edge in ((-1, left), (1, right)):
        z = between(rng, 1.6, 5)
        while z < far:
            kind = names[bisect_left(chances, rng.random() * 0.999)]
            long = between(rng, 6, 18) if kind == "building" else between(rng, 5, 14)
            if c.cross and z < c.cross + 7 and z + long > c.cross - 1:
                long, kind = c.cross + 8 - z, "gap"
            x = side * (edge + (between(rng, 0, 1.2) if kind == "building" else 0.2))
            a, b = (x, z), (x, z + long)
            if kind == "building":
                building(x, z, side, long)
            elif kind == "hedge":
                green(a, b, between(rng, 1.0, 2.5))
            elif kind != "gap":
                wood = rng.random() < 0.5
                rgb = (0.42, 0.32, 0.22) if wood else (0.22, 0.24, 0.24)
                rgb = pick(rng, city.facades) if kind == "wall" else rgb
                look = "wall" if kind == "wall" else "planks" if wood else "rails"
                plot(z + long / 2, a, b, between(rng, 0.9, 2.4), vary(rng, rgb, 0.15),
                     plain(look), c.annotate(WALL if kind == "wall" else FENCE),
                     1.0 if side != c.sun else 0.1, (0.0, rgb), 0.0)  # fmt: skip
            if kind not in ("building", "gap") and rng.random() < 0.7:
                x = side * (edge + between(rng, 4, 9))
                if rng.random() < city.pieces[0] + 0.2:
                    building(x, z, side, long, behind=True)
                else:
                    green((x, z), (x, z + long), between(rng, 2, 6))
            z += long + (between(rng, 1, 5) if rng.random() < city.pieces[4] * 2 else 0)
    x = -70.0
    while x < 70:
        wide = between(rng, 8, 16)
        if rng.random() < 0.35 + city.pieces[0] * 0.6:
            building(x, far + 8, 1, 0)
        else:
            green((x, far + 8), (x + wide, far + 8), between(rng, 4, 9))
        x += wide
    later = []
    for _, own, wall in sorted(plots, key=lambda item: item[0]):
        if wall[4] is plain("rails"):
            later.append((own, wall, c.skyline.copy()))
        else:
            paint_wall(c, own, *wall)
    for own, wall, skyline in reversed(later):
        paint_wall(c, own, *wall, skyline=skyline)


def populate(c: Canvas, pavement: Point) -> list[tuple[float, float, Point, Callable[[], None]]]:
    """Objects as (z, x, footprint (width, length), painter)."""
    rng, city, half = c.rng, c.city, c.half  # first what stays: trees, posts, parked cars
    things: list = []

    def depth(near: float = 5.0, far: float = 50.0) -> float:
        return near + (far - near) * rng.random() ** 1.7

    def beside(edge: float = 0.3) -> float:
        side = 0 if rng.random() < 0.5 else 1
        return (-1, 1)[side] * (half + edge + rng.random() * max(0.2, pavement[side] - edge))

    def put(x, z, size, painter, *extra) -> None:
        own = c.apart(rng)

        def paint() -> None:
            c.rng = own
            painter(c, x, z, *extra)

        things.append((z, x, size, paint))

    for _ in range(rng.poisson(city.trees)):
        put(beside(0.6) * between(rng, 1, 1.5), depth(6, 70), (2.0, 2.0), tree)
    for _ in range(rng.poisson(city.posts)):
        kind = pick(rng, ("lamp", "lamp", "light", "sign", "sign"))
        side = -1 if rng.random() < 0.45 else 1
        put(side * (half + between(rng, 0.2, 0.7)), depth(6, 45), (0.15, 0.15), post, kind)
    rng = c.now
    for _ in range(rng.poisson(city.people * 0.5)):
        x, z = beside(), depth(4.5, 40)
        if rng.random() < 0.15:
            x = between(rng, -half, half)
        for k in range(1 + rng.poisson(1)):
            put(x + 0.6 * k * between(rng, -1, 1), z + rng.random(), (0.5, 0.4), person)
    rng = c.rng
    for side in (-1, 1):
        z = between(rng, 4, 12)
        for _ in range(rng.poisson(city.parked / 2)):
            put(side * (half - 1.05), z, (1.8, 4.4), vehicle, CAR, side > 0)
            z += between(rng, 5.2, 9)
    rng = c.now
    for kind, rate in (
        (CAR, city.driving * 0.8), (TRUCK, city.trucks), (BUS, city.buses), (TRAIN, city.trains),
    ):  # fmt: skip
        for _ in range(rng.poisson(rate)):
            z = depth(7 if kind == CAR else 9, 48)
            w, _, long = SIZES[kind]
            if c.cross and rng.random() < 0.2 and kind != TRAIN:
                put(between(rng, -9, 9), c.cross + 3, (long, w), vehicle, kind, True, True)
                continue
            away = rng.random() < 0.5
            x = max(half * 0.5, 1.3) * (1 if away else -1)
            x = c.rails if kind == TRAIN and c.rails else x
            put(x + between(rng, -0.3, 0.3), z, (w, long), vehicle, kind, away)
    for rate, motor, ridden in (
        (city.riders * 0.7, False, True), (city.riders * 0.3, True, True),
        (city.bicycles, False, False), (city.motorcycles, True, False),
    ):  # fmt: skip
        for _ in range(rng.poisson(rate)):
            x = between(rng, -0.8, 0.8) * half if ridden else beside(0.1)
            put(x, depth(5, 30), (0.7, 1.5), two_wheeler, motor, ridden)
    for _ in range(rng.poisson(city.clutter)):
        put(beside(0.4), depth(4, 30), (0.6, 0.5), clutter)
    return sorted(things, key=lambda thing: -thing[0])


def cast_shadows(c: Canvas, things) -> np.ndarray:
    """Soft shadows of the objects on the ground, float32 [h, w / 2], 1 is dark."""
    layer = Image.new("L", (c.w // 2, c.h // 2))
    ink = ImageDraw.Draw(layer)
    slant = -c.sun * 1.6 * min(1.0, c.direct * 2)
    for z, x, (wide, long), _ in things:
        corners = ((x - wide / 2, z), (x + wide / 2, z), (x + wide / 2 + slant * 0.5, z + long),
                   (x - wide / 2 + slant * 0.5, z + long))  # fmt: skip
        points = [tuple(v / 2 for v in c.project(*p, 0)) for p in corners]
        ink.polygon([points[0], (points[0][0], points[0][1] + 1), (points[1][0], points[1][1] + 1),
                     *points[1:]], fill=255)  # fmt: skip
    soft = layer.filter(ImageFilter.BoxBlur(1.5)).resize((c.w // 2, c.h), Image.Resampling.BILINEAR)
    return np.asarray(soft, np.float32) / 255


def paint_bonnet(c: Canvas) -> None:
    rng = c.now
    top, edge = c.h * between(rng, 0.9, 0.95), c.h * between(rng, 0.97, 1.02)
    points = [(0, c.h), (0, edge), (c.w * 0.2, top + 4), (c.w * 0.5, top), (c.w * 0.8, top + 4),
              (c.w, edge), (c.w, c.h)]  # fmt: skip
    c.poly(points, c.shade((0.14, 0.14, 0.15), 1, 0.8), VOID)
    c.line(points[1:6], 3, c.shade((0.4, 0.4, 0.42), 1, 0.8))


def render_scene(
    city: str,
    seed: int,
    index: int,
    height: int = 128,
    width: int = 256,
    *,
    careful: bool = False,
    moment: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Render one scene; `careful`: by an annotator who takes nothing for its look-alike.

    moment: the street with this index at one time of many. Ground, façades, hedges, trees, posts
    and parked cars stay; camera, weather, light, traffic, people and the annotator's slips do not.
    None: a street that is seen once, another one than at any moment.

    Returns (image uint8 [height, width, 3] RGB, mask uint8 [height, width] of train ids or 255).
    Image, outlines and what is left out are the same either way.
    Raises ValueError for an unknown city, a negative seed, index or moment, a side under 32 pixels.
    """
    c = _painted(city, seed, index, height, width, careful, moment)
    return photograph(c), annotated(c)


def render_labels(
    city: str, seed: int, index: int, height: int, width: int, *, moment: int | None = None
) -> np.ndarray:
    """The mask of `render_scene` by a `careful` annotator, in half the time; raises as that."""
    c = _painted(city, seed, index, height, width, True, moment, coloured=False)
    shot(c.now, height, width)  # the annotator's numbers come after the photographer's
    return annotated(c)


Key = tuple[str, int, int, int | None]  # city, seed, index and moment


def scene_of(key: Key, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """`render_scene`. Worker processes import this file, and so do without torch."""
    *which, moment = key
    return render_scene(*which, height, width, moment=moment)


def labels_of(key: Key, height: int, width: int) -> np.ndarray:
    """`render_labels`, for workers too."""
    *which, moment = key
    return render_labels(*which, height, width, moment=moment)


def _painted(
    city: str,
    seed: int,
    index: int,
    height: int,
    width: int,
    careful: bool,
    moment: int | None,
    coloured: bool = True,
) -> Canvas:
    if city not in CITIES:
        raise ValueError(f"unknown city {city!r}; known: {', '.join(CITIES)}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be 0 or more, found seed {seed}, index {index}")
    if moment is not None and moment < 0:
        raise ValueError(f"moment {moment}: expected 0 or more, or None")
    if height < 32 or width < 32:
        raise ValueError(f"height and width must be 32 or more, found {height}x{width}")
    style = CITIES[city]
    rng = np.random.default_rng([seed, index, style.number])
    now = None if moment is None else np.random.default_rng([seed, index, style.number, moment])
    c = Canvas(rng, style, height, width, careful, now, coloured)
    pavement = tuple(rng.uniform(*style.pavement, 2))
    edges, kinds, colours = [-c.half, c.half], [ROAD], [(between(rng, 0.25, 0.42),) * 3]
    outer = [c.half, c.half]
    for side in (0, 1):
        paving = vary(rng, pick(rng, style.paving), 0.12)
        layers = [(SIDEWALK, paving, pavement[side])]
        if rng.random() < style.verge:
            grass = vary(rng, pick(rng, ((0.3, 0.38, 0.15), (0.4, 0.38, 0.2))), 0.15)
            layers.insert(int(rng.random() * 2), (TERRAIN, grass, between(rng, 0.8, 3)))
        for kind, colour, wide in layers:
            outer[side] += wide
            end = (0, len(kinds))[side]
            kinds.insert(end, kind)
            colours.insert(end, colour)
            edges.insert((0, len(edges))[side], (-1, 1)[side] * outer[side])
    # beyond the plots' front: lawn or paving
    for side in (0, 1):
        end = (0, len(kinds))[side]
        green = rng.random() < 0.2 + style.verge * 0.7
        kinds.insert(end, TERRAIN if green else SIDEWALK)
        colours.insert(end, (0.3, 0.36, 0.16) if green else pick(rng, style.paving))
    things = populate(c, pavement)
    paint_sky(c)
    paint_ground(c, edges, kinds, colours, cast_shadows(c, things) if coloured else None)
    paint_rows(c, outer[0], outer[1])
    c.start_objects()
    if c.rails:  # overhead wires carry no class
        wire = [c.project(c.rails, z, 5.6) for z in (2, 90)]
        c.line(wire, 1, c.shade((0.1, 0.1, 0.1), 20))
    for *_, painter in things:
        painter()
    if c.now.random() < style.bonnet:
        paint_bonnet(c)
    return c
