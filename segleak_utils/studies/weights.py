"""Training all that is shipped in ``weights/``, one network a core, resumable."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial

import torch
from tqdm.std import tqdm

from segleak_utils.attacks.contests import LOGISTIC
from segleak_utils.attacks.patchnets import CALIBRATED_MAP, REPRESENTATIONS, Representation
from segleak_utils.data.workers import end_with_parent
from segleak_utils.studies import beyond, experiment, networks, offers, protected
from segleak_utils.studies.experiment import SETTINGS, Setting, network, network_names, roles
from segleak_utils.studies.patchattacks import attacker, attacker_name
from segleak_utils.studies.plan import Plan
from segleak_utils.studies.shelf import adopt, manifest, remove, shipped, write_manifest
from segleak_utils.whole import alone, replace_file


def train_weights(
    names: Sequence[str] = (), *, force: bool = False, plan: Plan | None = None
) -> None:
    """Train whatever is missing in ``weights/``; resumable.

    `names` are trained again, and with them what was made from them; with `force` everything.
    Raises ValueError for an unknown name.
    """
    plan = plan or Plan()
    started = time.monotonic()
    if force:
        with alone(plan.weights / "manifest.json"):
            for path in plan.weights.glob("*.safetensors"):
                path.unlink(missing_ok=True)
            (plan.weights / "manifest.json").unlink(missing_ok=True)
        for begun in ("checkpoints", "training"):
            shutil.rmtree(plan.build / begun, ignore_errors=True)
    forget(plan, names)
    wanted = [*network_names(plan), *plan.further]
    missing = [name for name in wanted if shipped(plan.weights, name) is None]
    for name in missing:
        roles(plan, name)  # draws the scenes here, before two workers want the same ones
    _side_by_side(plan, _network_apart, missing)
    missing = [
        (setting, representation)
        for setting in SETTINGS
        for representation in REPRESENTATIONS
        if shipped(plan.weights, attacker_name(setting, representation)) is None
    ]
    _side_by_side(plan, _attacker_apart, missing)
    missing = [s for s in SETTINGS if not shipped(plan.weights, attacker_name(s, CALIBRATED_MAP))]
    if len(plan.shadow_seeds) > 1:  # else a shadow has no reference of its own
        _side_by_side(plan, _calibrated_apart, missing)
    missing = [name for name in protected.names(plan) if shipped(plan.weights, name) is None]
    if protected.PUBLIC in missing:  # the fine-tuned ones start from it
        protected.public_scenes(plan)
        _side_by_side(plan, _protected_apart, [protected.PUBLIC])
        missing.remove(protected.PUBLIC)
    for name in missing:
        protected.scenes(plan, *protected.parts(name))[0]()
    _side_by_side(plan, _protected_apart, missing)
    scenario = offers.synthstreets(plan)
    missing = [
        service.name
        for service in offers.services()
        if any(
            shipped(plan.weights, name) is None
            for key, name in offers.attacker_names(scenario, service).items()
            if key in (*service.representations, LOGISTIC)
        )
    ]
    _side_by_side(plan, _service_apart, missing)
    size = sum(path.stat().st_size for path in plan.weights.glob("*.safetensors")) / 2**20
    minutes = (time.monotonic() - started) / 60
    print(f"{plan.weights}: {size:.1f} MiB, complete after {minutes:.1f} minutes of this run")


def forget(plan: Plan, names: Sequence[str]) -> None:
    """Remove these networks or attackers, and whatever was made from them.

    Raises ValueError for a name that is not in the manifest.
    """
    entries = manifest(plan.weights)
    unknown = [name for name in names if name not in entries]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not in the manifest; known: {', '.join(entries)}")
    gone: set[str] = set()
    after = set(names)
    while after:
        gone |= after
        hashes = {entries[name]["sha256"] for name in after}
        after = {
            name
            for name, entry in entries.items()
            if hashes & {entry.get("public"), *entry.get("shadows", {}).values()}
        } - gone
    if gone:
        remove(plan.weights, gone)


def _side_by_side(plan: Plan, train: Callable, what: list) -> None:
    """Train with one process a core: nets this small gain little from a second thread."""
    if not what:
        return
    workers = 1 if torch.cuda.is_available() else min(len(what), os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    shared = context.RLock(), context.Value("i", 0)
    with ProcessPoolExecutor(workers, context, _begin_worker, shared) as pool:
        for job in as_completed([pool.submit(train, plan, item) for item in what]):
            _adopt(plan, job.result())


def _begin_worker(lock, counter) -> None:
    # Ctrl-C ends a worker at once, or it would begin the next network; its checkpoint is whole
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()
    torch.set_num_threads(1)
    tqdm.set_lock(lock)
    with counter.get_lock():
        networks.bar_line, counter.value = counter.value, counter.value + 1


def _apart(plan: Plan, *key: object) -> Plan:
    """The plan with a weights folder for one worker alone, of which all or nothing is adopted."""
    of = hashlib.sha256(json.dumps([str(part) for part in key]).encode()).hexdigest()
    return replace(plan, weights=plan.build / "training" / of[:16])


def _adopt(plan: Plan, apart: Plan) -> None:
    """Move what a worker has trained to the plan's weights."""
    adopt(plan.weights, apart.weights)
    shutil.rmtree(apart.weights)


def _network_apart(plan: Plan, name: str) -> Plan:
    apart = _apart(plan, name, plan.recipe, plan.sizes)
    network(apart, name)
    return apart


def _attacker_apart(plan: Plan, what: tuple[Setting, Representation]) -> Plan:
    setting, representation = what
    shadows = [network(plan, f"shadow-{setting}-{k}") for k in plan.shadow_seeds]
    apart = _apart(plan, *what, plan.attack, [of.sha256 for of in shadows])
    attacker(apart, setting, representation, shadows)
    return apart


def _calibrated_apart(plan: Plan, setting: Setting) -> Plan:
    shadows = experiment.networks(plan, setting, len(plan.shadow_seeds))
    apart = _apart(plan, "calibrated", setting, plan.attack, [of.sha256 for of in shadows])
    beyond.train_calibrated_patches(apart, attacker_name(setting, CALIBRATED_MAP), shadows)
    return apart


def _protected_apart(plan: Plan, name: str) -> Plan:
    how = protected.TRAININGS.get(protected.parts(name)[1], protected.PUBLIC_TRAINING)
    apart = _apart(plan, name, how, plan.recipe, plan.sizes)
    if name == protected.PUBLIC:
        protected.public(apart)
        return apart
    entry = manifest(plan.weights)[protected.PUBLIC]  # what the fine-tuned ones start from
    write_manifest(apart.weights, {protected.PUBLIC: entry})
    file = f"{protected.PUBLIC}.safetensors"
    replace_file(apart.weights / file, partial(shutil.copyfile, plan.weights / file))
    protected.network(apart, *protected.parts(name))
    return apart


def _service_apart(plan: Plan, name: str) -> Plan:
    service = next(s for s in offers.services() if s.name == name)
    scenario = offers.synthstreets(plan)
    entries = manifest(plan.weights)
    of = {shadow: entries[shadow]["sha256"] for shadow in scenario.shadow_names(service.variant)}
    apart = _apart(plan, service, plan.attack, of)
    for file in offers.attacker_names(scenario, service).values():  # those that are there stay
        if shipped(plan.weights, file) is not None and shipped(apart.weights, file) is None:
            write_manifest(apart.weights, {file: entries[file]})
            source = plan.weights / f"{file}.safetensors"
            replace_file(apart.weights / source.name, partial(shutil.copyfile, source))
    offers.train_attackers(replace(scenario, plan=apart), service, service.representations)
    return apart
