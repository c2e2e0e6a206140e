"""Whole experiments: a plan, who asks whom, and what is kept; the core's attacks do the rest.

`experiment` is the default one, on SynthStreets; `standard` its contest, `beyond` that of all
attacks there are; `camvid`, `paper` and `published` are other data; `frontier` has the defences,
`growth` the grid, `epsilon` the audit of DP-SGD, `weights` trains what is shipped.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "asking",
        "beyond",
        "cache",
        "camvid",
        "costs",
        "epsilon",
        "experiment",
        "frontier",
        "growth",
        "literature",
        "networks",
        "online",
        "patchattacks",
        "paper",
        "protected",
        "published",
        "shelf",
        "standard",
        "weights",
    ],
    submod_attrs={"networks": ["Network"], "plan": ["Plan", "Sizes"]},
)
