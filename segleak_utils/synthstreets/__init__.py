"""SynthStreets, one source of scenes: streets of three cities, drawn from a seed.

`draw` gives `data.Scenes`, cached on disk; `split` the roles of the default experiment;
`mislabelled` says where their annotator took an object for another.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "annotator": ["mislabelled"],
        "scene": ["VERSION", "render_scene"],
        "source": ["draw", "split"],
        "styles": ["CITIES", "City"],
    },
)
