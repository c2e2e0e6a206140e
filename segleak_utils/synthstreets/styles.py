"""Classes, palette and city styles of SynthStreets."""

from __future__ import annotations

from dataclasses import dataclass

Rgb = tuple[float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class City:
    """Style of a city; rates are expected numbers of objects per scene."""

    number: int
    facades: tuple[Rgb, ...]
    roofs: tuple[Rgb, ...]
    paving: tuple[Rgb, ...]
    leaves: tuple[Rgb, ...]
    height: tuple[float, float]  # metres of façade
    roof: float  # metres
    pieces: tuple[float, float, float, float, float]  # building, wall, fence, hedge, gap
    road: tuple[float, float]  # half width, metres
    pavement: tuple[float, float]  # width, metres
    verge: float  # chance of a green strip between pavement and plots
    weather: tuple[float, float, float, float, float]  # clear, overcast, haze, rain, dusk
    bonnet: float  # chance
    cobbles: float  # chance
    rails: float  # chance of tram tracks
    trees: float
    people: float
    riders: float
    parked: float
    driving: float
    trucks: float
    buses: float
    trains: float
    motorcycles: float
    bicycles: float
    posts: float
    clutter: float


CITIES: dict[str, City] = {
    "harbour": City(
        1, ((0.45, 0.24, 0.19), (0.52, 0.33, 0.27), (0.56, 0.57, 0.58), (0.36, 0.4, 0.45),
            (0.62, 0.58, 0.5)), ((0.25, 0.26, 0.28), (0.35, 0.2, 0.17)),
        ((0.5, 0.5, 0.49), (0.43, 0.44, 0.46)), ((0.22, 0.3, 0.14), (0.28, 0.33, 0.2)),
        (7, 19), 1.0, (0.58, 0.16, 0.14, 0.04, 0.08), (4.5, 7.5), (1.5, 3.5), 0.2,
        (0.2, 0.35, 0.2, 0.15, 0.1), 0.9, 0.15, 0.45, 2.0, 3.0, 0.5, 4.0, 2.2, 0.6, 0.15, 0.14,
        0.25, 0.6, 5.0, 1.0,
    ),
    "oldtown": City(
        2, ((0.78, 0.66, 0.42), (0.75, 0.5, 0.35), (0.8, 0.74, 0.62), (0.62, 0.42, 0.33),
            (0.7, 0.72, 0.66), (0.8, 0.62, 0.55)), ((0.45, 0.22, 0.15), (0.5, 0.3, 0.2)),
        ((0.55, 0.51, 0.46), (0.48, 0.46, 0.43)), ((0.24, 0.36, 0.12), (0.3, 0.4, 0.16)),
        (8, 14), 2.6, (0.84, 0.06, 0.03, 0.03, 0.04), (2.8, 4.4), (1.2, 2.6), 0.04,
        (0.42, 0.28, 0.1, 0.1, 0.1), 0.0, 0.6, 0.25, 1.2, 6.5, 0.8, 3.0, 1.2, 0.2, 0.15, 0.08,
        0.35, 1.8, 4.5, 1.0,
    ),
    "suburb": City(
        3, ((0.75, 0.73, 0.69), (0.66, 0.6, 0.5), (0.5, 0.33, 0.26), (0.6, 0.65, 0.68),
            (0.82, 0.78, 0.66)), ((0.35, 0.25, 0.22), (0.3, 0.3, 0.32), (0.48, 0.28, 0.2)),
        ((0.6, 0.58, 0.54), (0.52, 0.52, 0.5)), ((0.2, 0.36, 0.1), (0.3, 0.42, 0.15),
            (0.42, 0.4, 0.14)),
        (3.5, 6.5), 2.8, (0.3, 0.12, 0.2, 0.22, 0.16), (3.4, 5.5), (1.3, 2.4), 0.75,
        (0.5, 0.22, 0.12, 0.08, 0.08), 0.45, 0.0, 0.04, 7.0, 2.0, 0.45, 4.5, 1.6, 0.25, 0.15,
        0.08, 0.2, 0.6, 3.5, 0.6,
    ),
}  # fmt: skip
