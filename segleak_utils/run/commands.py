"""What the commands do, in an interpreter that has all packages; each gives its exit code."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from segleak_utils.run.environment import INTERRUPTED, ROOT, child_environment, relay

SIDE_BY_SIDE = ["-n", "auto", "--dist", "loadgroup", "--no-loadscope-reorder"]


def run_tests(rest: list[str]) -> int:
    """Run ruff and pytest; return the worst exit code. pytest's last line is printed last.

    Where no files are named, two processes share out the tests (`tests/conftest.py`).
    """
    os.chdir(ROOT)
    named = any(Path(word.partition("::")[0]).exists() for word in rest)
    tests = ["pytest", *([] if named else SIDE_BY_SIDE), *rest]
    commands = [["ruff", "check", "."], ["ruff", "format", "--check", "."], tests]
    codes = []
    for command in commands:
        print("segleak:", *command, flush=True)
        codes.append(relay([sys.executable, "-m", *command], env=child_environment()))
        if codes[-1] == INTERRUPTED:
            break
        if codes[-1] and command[0] == "ruff":
            print("segleak: ruff complains, this run will fail.", flush=True)
    return max(codes)


def notebooks(options: argparse.Namespace) -> int:
    """Run the notebooks headlessly and print the table."""
    from segleak_utils.running import execution

    overrides = dict(options.overrides)
    if options.preset:
        overrides["preset"] = options.preset
    only = tuple(part.strip() for part in (options.only or "").split(",") if part.strip())
    try:
        execution.run_notebooks(
            options.notebooks,
            options.build,
            only=only,
            overrides=overrides,
            cell_timeout=options.cell_timeout,
            jobs=options.jobs,
        )
    except (execution.NotebookError, ValueError, FileNotFoundError) as error:
        print(f"segleak: {error}", file=sys.stderr)
        return 1
    return 0


def dispatch(options: argparse.Namespace) -> int:
    """Run the chosen command in this interpreter, which has all packages; return its exit code."""
    if options.command == "test":
        return run_tests(options.rest)
    if options.command == "lab":
        from segleak_utils.running import copies, execution

        own = options.build / "lab"
        for line in copies.copy_notebooks(options.notebooks, own, reset=options.reset):
            print(f"segleak: {line}", flush=True)
        command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={own}"]
        kernels = execution.kernel_environment(options.build)
        quiet = copies.without_news(options.build / "jupyter" / "config")
        return relay([*command, *options.rest], env={**child_environment(), **kernels, **quiet})
    if options.command == "site":
        from segleak_utils.running import site

        return site.main(options.build)
    if options.command == "audit":
        from segleak_utils.audit import command

        return command.main(options.rest)
    if options.command in ("beyond", "epsilon", "growth", "risk"):
        return beyond_the_paper(options)
    if options.command in ("weights", "camvid", "defenses"):
        from segleak_utils import studies
        from segleak_utils.studies import camvid, frontier, offers, weights

        try:
            if options.command == "weights":
                weights.train_weights(options.names, force=options.force)
            elif options.command == "camvid":
                camvid.camvid_experiment(options.root, preset=options.preset or "full")
            elif options.camvid:
                camvid.camvid_defenses(options.camvid, preset=options.preset or "full")
            else:
                plan = studies.Plan(studies.Sizes(n_nonmembers=options.nonmembers))
                chosen, wanted = offers.services(), None
                if options.services:
                    chosen, wanted = offers.named(options.services), {}
                found = frontier.measure(offers.synthstreets(plan), chosen, wanted=wanted)
                print(frontier.table(found))
        except (ValueError, FileNotFoundError) as error:
            print(f"segleak: {error}", file=sys.stderr)
            return 1
        return 0
    if options.command in ("labels", "encoder", "examples", "paper"):
        return reproduce(options)
    return notebooks(options)


def beyond_the_paper(options: argparse.Namespace) -> int:
    """Run one of the commands behind notebook 06; return its exit code."""
    from segleak_utils.studies import (
        beyond,
        camvid,
        experiment,
        growth,
        imitation,
        online,
        owners,
        risk,
        strongest,
        taught,
    )

    try:
        plan = experiment.plan_of(options.preset or "quick")
        if options.command == "epsilon":
            return promises(options, plan)
        elif options.command == "growth":
            growth.growth(plan, jobs=options.jobs, cluster=options.cluster)
        elif options.command == "risk" and options.owners:
            owners.measure(plan)
        elif options.command == "risk":
            risk.risk(
                plan,
                options.networks,
                recipe=options.recipe or risk.DEFAULT,
                jobs=options.jobs,
                cluster=options.cluster,
            )
        elif options.camvid:
            camvid.camvid_beyond(options.camvid, preset=options.preset or "full")
        elif options.choices:
            beyond.choices(plan)
        elif options.strongest:
            strongest.choices(plan)
        elif options.confirm:
            strongest.confirm(plan)
        elif options.imitate:
            imitation.imitation(plan)
        elif options.teach:
            taught.teaching(plan)
        elif options.online:
            online.online(plan)
        else:
            beyond.beyond(plan)
    except ValueError as error:
        print(f"segleak: {error}", file=sys.stderr)
        return 1
    return 0


def promises(options: argparse.Namespace, plan: object) -> int:
    """Run one of the audits of DP-SGD; return its exit code, 3 for a promise that is refuted."""
    from segleak_utils.studies import canary_audit, caught, epsilon, tightness

    counted = options.canaries not in (True, False)
    if options.step and not counted:
        raise ValueError("--step FILE.py:NAME needs --canaries N, the number of canaries")
    if options.faults:
        caught.measure(plan)
    elif options.tight:
        tightness.measure(plan)
    elif counted:
        return canary_audit.command(plan, options.canaries, options.step)
    else:
        epsilon.audit(plan, canaries=options.canaries)
    return 0


def reproduce(options: argparse.Namespace) -> int:
    """Run one of the commands of docs/reproduce.md; return its exit code."""
    from segleak_utils import data
    from segleak_utils.studies import paper, published
    from segleak_utils.victims import encoders

    try:
        if options.command == "labels":
            converted, kept = data.convert_mapillary(options.mapillary)
            print(f"segleak: {converted} labels converted, {kept} were there already")
        elif options.command == "encoder":
            path = ROOT / "build" / "encoders" / f"{options.name}.safetensors"
            print(f"segleak: {path}, SHA-256 {encoders.fetch_encoder(options.name, path)}")
        elif options.command == "examples":
            told = {"kind": "dpsgd" if options.dpsgd else "sgd", "argmax": options.argmax}
            told |= {"gaussian_std": options.gauss, "n_patches": options.patches}
            told |= {"dilated": options.dilated, "seed": options.seed, "progress": True}
            print(published.table(options.root, options.attackers, **told))
        else:
            run = paper.run_of(options.config, options.roots, options.lists, options.out)
            if options.step == "train":
                only, processes = options.network, options.processes
                paper.train(run, options.config, only=only, processes=processes)
            elif options.step == "posteriors":
                paper.posteriors(run, workers=options.workers)
            else:
                paper.attack(run)
    except ValueError as error:
        print(f"segleak: {error}", file=sys.stderr)
        return 1
    return 0
