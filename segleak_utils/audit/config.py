"""What an audit is told, all of it, in one file: `audit.yml`, checked key by key.

The command line has a twin of every key (`--data.grid 8192`), and a notebook the same names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segleak_utils.victims import Recipe

Side = Annotated[int, Field(ge=8, le=16384)]
Size = tuple[Side, Side]  # height, width
Returns = Literal["logits", "log_probabilities", "probabilities"]
Share = Annotated[float, Field(gt=0, lt=1)]
Triple = tuple[float, float, float]


class _Told(BaseModel):
    """Unknown keys are refused: a key that is misspelt would be a setting that is not made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Pairs(_Told):
    """A folder of images with the folder of their masks (the same one, if it is left out)."""

    images: Path
    masks: Path | None = None


class Data(_Told):
    """The two lists: two pairs of folders, or a manifest."""

    members: Pairs | None = Field(None, description="images that the model was trained on")
    nonmembers: Pairs | None = Field(None, description="like images that it was not trained on")
    manifest: Path | None = Field(
        None, description="CSV or Parquet instead: columns image, mask, member, and group if known"
    )
    pattern: str = Field(
        "{stem}.*", description="name of an image's mask, e.g. {stem}_gtFine_labelIds.png"
    )
    image_pattern: str = Field(
        "{stem}.*", description="name of an image, if more than its stem is: {stem}_leftImg8bit.png"
    )
    n_classes: int | None = Field(None, ge=2, le=255)
    classes: tuple[str, ...] | None = Field(None, description="their names, in order of the labels")
    mapping: dict[int, int] | None = Field(None, description="stored id: label; others are refused")
    colours: dict[str, int] | None = Field(
        None, description='of RGB masks, "#rrggbb": label or -1 for void'
    )
    void: int | tuple[int, ...] | None = Field(
        None, description="stored id, or ids, that do not count; 255 where it is left out"
    )
    groups: str | None = Field(
        None, description="regular expression of whose an image is, in its name: '^(patient[0-9]+)'"
    )
    size: Size | None = Field(None, description="height, width that all images are brought to")
    fit: Literal["pad", "stretch"] = Field("pad", description="pad: the aspect is kept")
    tile: Size | None = Field(None, description="instead of size: asked tile by tile")
    grid: int = Field(
        128 * 256, ge=256, description="pixels of an image whose losses are kept, at most"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        pairs = self.members is not None, self.nonmembers is not None
        if any(pairs) and not all(pairs):
            raise ValueError("data: members and nonmembers are needed, both; one is missing")
        if all(pairs) and self.manifest is not None:
            raise ValueError("data: either members and nonmembers, or a manifest; both are given")
        if self.size is not None and self.tile is not None:
            raise ValueError("data: either size or tile; both are given")
        if self.colours is not None and self.mapping is not None:
            raise ValueError("data: colours (of RGB masks) or mapping (of ids); both are given")
        if self.classes and self.n_classes not in (None, len(self.classes)):
            found = f"{len(self.classes)} names, but n_classes is {self.n_classes}"
            raise ValueError(f"data.classes: {found}")
        return self

    @property
    def voids(self) -> tuple[int, ...] | None:
        """The stored ids that do not count; None where nothing was said of them."""
        return (self.void,) if isinstance(self.void, int) else self.void

    @property
    def empty(self) -> bool:
        return self.members is None and self.manifest is None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes; ValueError where neither they nor their number was told."""
        if self.classes:
            return self.classes
        if self.n_classes is None:
            raise ValueError("data: give n_classes, or classes with their names")
        return tuple(f"class {c}" for c in range(self.n_classes))


KINDS = ("model", "file", "posteriors", "labels", "scores")


class Answers(_Told):
    """Where a network's answers come from: exactly one of the first five keys."""

    model: str | None = Field(
        None, description="package.module:name of a model, or of what makes one without arguments"
    )
    file: Path | None = Field(None, description=".pt2 (torch.export), .pt (TorchScript) or .onnx")
    posteriors: Path | None = Field(
        None, description="folder of .npy, .npz, .safetensors or .zarr, one an image, by its stem"
    )
    labels: Path | None = Field(None, description="folder of predicted label maps, by stem")
    scores: Path | None = Field(
        None, description="CSV: image, loss (or score), and member, group, reference_1, ..."
    )
    returns: Returns | None = Field(None, description="what model, file or posteriors hold")
    output: str | int | None = Field(
        None, description="which part of a tuple, a dict or a file holds it"
    )
    ids: Literal["labels", "stored"] | None = Field(
        None, description="what predicted label maps hold: labels 0..C-1, or ids as the masks do"
    )
    layout: Literal["channels_first", "channels_last"] = "channels_first"
    mean: Triple | None = Field(None, description="subtracted from images in 0..1 (RGB)")
    std: Triple | None = Field(None, description="by which they are divided then")
    scale: float = Field(1, gt=0, description="255 for a model that takes 0..255")
    order: Literal["RGB", "BGR"] = "RGB"
    random: bool = Field(
        False, description="true where the model's answers are noisy on purpose; else refused"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    batch: int = Field(8, ge=1, le=1024, description="images asked at a time, at most")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) > 1:
            raise ValueError(f"answers: one of {', '.join(KINDS)}; {', '.join(given)} are given")
        if given and given[0] in ("model", "file", "posteriors") and self.returns is None:
            raise ValueError(
                f"answers.returns: say what the {given[0]} gives, logits, log_probabilities or "
                "probabilities; it is checked then"
            )
        if (self.mean is None) != (self.std is None):
            raise ValueError("answers: mean and std go together; one is missing")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"answers.std is {list(self.std)}; expected numbers above 0")
        return self

    @property
    def kind(self) -> str | None:
        """Which of `KINDS` is given; None where a Python object is handed over."""
        return next((kind for kind in KINDS if getattr(self, kind) is not None), None)


class Shadow(_Told):
    """What a reference was trained on, and images that it was not: then attacks learn from it."""

    members: Pairs
    nonmembers: Pairs


class Reference(Answers):
    """A network of the auditor's, like the audited one, that it can be compared with."""

    trained_on: Path | None = Field(
        None, description="text file, an image's name or path a line: no reference for these"
    )
    shadow: Shadow | None = None


class Training(_Told):
    """References that are trained here, from more images of the kind."""

    count: int = Field(2, ge=1, le=64)
    images: Path
    masks: Path | None = None
    recipe: Recipe | None = Field(None, description="as `victims.Recipe`; classes are the data's")
    size: Size | None = Field(None, description="what they are trained at; data.size if given")
    jobs: int | None = Field(None, ge=1, description="trained side by side; one a core")
    cluster: str | None = Field(None, description="address of a Dask scheduler, instead")


class Audit(_Told):
    """All that an audit is told."""

    name: str = Field("model", max_length=200, description="what the report calls the model")
    data: Data = Data()
    answers: Answers = Answers()
    references: tuple[Reference, ...] = ()
    train_references: Training | None = None
    releases: bool = Field(True, description="whether to try what would help")
    level: Share = 0.95
    false_discovery_rate: Share = 0.1
    relabellings: int = Field(200, ge=40, le=100_000, description="of the blind baseline")
    resamples: int = Field(2000, ge=200, le=100_000, description="of a bootstrap")
    seed: int = Field(0, ge=0)
    fail_above: dict[str, Share] = Field(
        {}, description="the gate's limits: auc, tpr_at_10pct, tpr_at_1pct, tpr_at_0.1pct"
    )
    out: Path = Path("audit")
