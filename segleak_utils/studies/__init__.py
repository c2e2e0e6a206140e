"""Whole experiments: a plan, who asks whom, and what is kept; the core's attacks do the rest.

`plan` says how large, `experiment` who there is, `networks` and `patchattacks` load or train,
`shelf` holds the weights and `cache` what was computed, `asking` asks. On these stand `standard`
(the contest of the notebooks), `beyond` (that of all attacks), `literature` (those of other papers)
and `online`; `protected` (trainings with a defence) and `frontier` (what each defence costs);
`growth`, `risk` and `exposure` (each image's own risk); `epsilon`, `costs`; `canaries`, `promises`,
`proofs`, `copied` and `canary_audit` (the audit of a private training), `faults` (what turns it
red), `caught` (which bound sees it) and `tightness`; `camvid`, `paper` and `published` on other
data; `weights` trains what is shipped.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "asking",
        "beyond",
        "cache",
        "camvid",
        "canaries",
        "canary_audit",
        "caught",
        "copied",
        "costs",
        "epsilon",
        "experiment",
        "exposure",
        "faults",
        "frontier",
        "growth",
        "literature",
        "networks",
        "online",
        "patchattacks",
        "paper",
        "plan",
        "promises",
        "proofs",
        "protected",
        "published",
        "risk",
        "shelf",
        "standard",
        "tightness",
        "weights",
    ],
    submod_attrs={"networks": ["Network"], "plan": ["Plan", "Sizes"]},
)
