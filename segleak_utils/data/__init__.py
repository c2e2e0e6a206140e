"""Scenes (images with label masks) from any source, and lists of who trained on what.

Street data sets, CamVid, folders, the authors' example folder; and what reading and drawing them
needs: files that are written whole, worker processes that end with their parent, and memory that is
kept.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["examples", "imagefiles", "labels", "lists", "workers"],
    submod_attrs={
        "classes": ["CLASSES", "PALETTE", "VOID"],
        "drives": ["blocks", "camvid", "camvid_split", "download_camvid"],
        "labels": ["convert_mapillary", "to_train_ids"],
        "memory": ["keep_freed_memory"],
        "scenes": ["Scenes", "files", "folder"],
        "splits": ["Split"],
        "streets": ["bdd100k", "cityscapes", "mapillary"],
    },
)
