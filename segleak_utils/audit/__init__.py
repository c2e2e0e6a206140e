"""Your own model: from a model, or only its answers, and two lists of images to a verdict.

`config` says what an audit is told and `findings` what it finds; in between pictures are read, a
network is asked and reduced to numbers an image (`said`), attacks are run by what there is, and a
report is written. It knows no study and no data set of ours.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["config", "findings", "gate", "report", "said"],
    submod_attrs={"auditing": ["Report", "audit"], "config": ["Audit"]},
)
