"""Whole experiments: a plan, who asks whom, and what is kept; the core's attacks do the rest.

`plan` says how large, `experiment` who there is, `networks` and `patchattacks` load or train,
`shelf` holds the weights and `cache` what was computed, `asking` asks. On these stand `standard`
(the contest of the notebooks), `labelling` (the annotator's mistakes), `beyond` (the contest of all
attacks; `rows`: its lines as files), `strongest` (forms of the best one), `literature` (those of
other papers) and `online`; `protected` (trainings with a defence), `offers` (what is released, and
who knows of it), `frontier` (what each defence costs) and `dominance`; `growth`, `risk` and
`exposure` (each image's own risk); `epsilon`, `costs`; `canaries`, `promises`, `proofs`, `copied`
and `canary_audit` (the audit of a private training), `faults` (what turns it red), `caught` (which
bound sees it) and `tightness`; `camvid`, `paper` and `published` on other data; `weights` trains
what is shipped.
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
        "dominance",
        "epsilon",
        "experiment",
        "exposure",
        "faults",
        "frontier",
        "growth",
        "labelling",
        "literature",
        "networks",
        "offers",
        "online",
        "patchattacks",
        "paper",
        "plan",
        "promises",
        "proofs",
        "protected",
        "published",
        "readings",
        "risk",
        "rows",
        "shelf",
        "standard",
        "strongest",
        "tightness",
        "weights",
    ],
    submod_attrs={"networks": ["Network"], "plan": ["Plan", "Sizes"]},
)
