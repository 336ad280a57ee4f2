"""One cell: train, make the attacker's surrogate, attack, write the result.

OUT/work/PROFILE/models   bundles, the surrogates' beside them
OUT/work/PROFILE/runs     checkpoints, shared classifiers and adversarial images
OUT/work/PROFILE/audits   the rows of audits that are not finished
OUT/work/PROFILE/logs     what training says
"""

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from rich.console import Console

from fend import __version__
from fend.audit import AuditJob, KeepInFolder, Report, audit_report
from fend.audit.report import Share
from fend.audit.rows.index_ranges import from_ranges
from fend.audit.work.surrogates import SEED as SURROGATE_SEED
from fend.bundles import MANIFEST, Manifest, load_bundle, read_manifest
from fend.datasets import load
from fend.files import replace_atomically
from fend.threat import Knowledge
from reproduction.cells import Cell
from reproduction.detection import detections
from reproduction.result import AtLevel, CellResult, Measured, UnderThreat, result_path, to_marks
from reproduction.specs import paper_audit, white_box_audit
from training.data import load_splits
from training.line import run_recipe
from training.recipe import Recipe
from training.recipe.smaller import surrogate_recipe

Say = Callable[[str], None]


@dataclass(frozen=True)
class Paths:
    """Folders that a run reads and writes, and its device."""

    out: Path
    data_dir: Path | None
    device: str

    def work(self, profile: str) -> Path:
        return self.out / "work" / profile


def run_cell(cell: Cell, paths: Paths, say: Say = lambda _: None) -> None:
    """Write the cell's result. What an earlier, stopped run of it finished is not done again.

    Raises:
        FendError: data or a loss network that is not there, or a recipe that does not fit.
    """
    work, device = paths.work(cell.profile), torch.device(paths.device)
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    say("training")
    manifest = _trained(cell.recipe, cell.name, paths, work)
    surrogate = None
    if Knowledge.BLACK_BOX in cell.levels:
        say("surrogate")
        surrogate = f"{cell.data}-{cell.defence}-surrogate"
        # The same for every seed: an attacker without the weights does not know the seed either.
        recipe = surrogate_recipe(manifest, SURROGATE_SEED)
        recipe = recipe.model_copy(update={"name": surrogate, "summary": "The attacker's own."})
        _trained(recipe, f"{cell.name}.surrogate", paths, work)
    trained_s = time.monotonic()
    audits = work / "audits" / cell.key
    bundle_dir = work / "models" / cell.recipe.name
    threats, reports = [], []
    for epsilon in cell.epsilons:
        say(f"attacks at {epsilon:g}")
        specs = (
            paper_audit(cell, manifest.name, surrogate, epsilon),
            white_box_audit(cell, manifest.name, epsilon),
        )
        paper, white = (
            audit_report(
                AuditJob(spec, bundle_dir, paths.data_dir, paths.device),
                keep=KeepInFolder(audits / f"{number}-{epsilon:g}"),
            )
            for number, spec in enumerate(specs)
        )
        threats.append(_under(epsilon, paper, white))
        reports.append(paper)
    say("detectors")
    bundle = load_bundle(bundle_dir, device)
    splits = load_splits(cell.recipe.data, cell.recipe.input, cell.recipe.seed, paths.data_dir)
    images = load(cell.recipe.data.test, paths.data_dir)
    attacked = images.subset(images.sample(cell.images, 0))
    about, recipe, report = manifest.about, cell.recipe, reports[0]
    result = CellResult(
        key=cell.key,
        data=cell.data,
        group=cell.group,
        defence=cell.defence,
        seed=cell.seed,
        profile=cell.profile,
        recipe=recipe.name,
        denoiser=recipe.denoiser.architecture,
        classifier=recipe.classifier.architecture,
        loss=_loss_in_words(recipe),
        train_images=about["data"]["train"]["images"],
        classifier_epochs=recipe.classifier.epochs,
        denoiser_epochs=recipe.denoiser.epochs,
        clean=_all_but([report.clean.wrong], report),
        clean_undefended=_measured(report.clean.undefended),
        threats=tuple(threats),
        detection=detections(cell, bundle, splits.held_out, attacked, device),
        model_version=manifest.version,
        dataset_digest=report.identity.dataset_digest,
        index_digest=report.identity.index_digest,
        train_s=round(trained_s - started_s, 1),
        attack_s=round(time.monotonic() - trained_s, 1),
        cpu_s=round(time.process_time() - started_cpu_s, 1),
        made_with={"fend": __version__, "torch": torch.__version__, "device": paths.device},
    )
    replace_atomically(result_path(paths.out, cell), result.model_dump_json(indent=1) + "\n")
    shutil.rmtree(audits)


def _trained(recipe: Recipe, log: str, paths: Paths, work: Path) -> Manifest:
    """The bundle of `recipe` in `work`; what is there is used, and a stopped training goes on."""
    bundle_dir, runs_dir = work / "models" / recipe.name, work / "runs"
    for folder in (work / "logs", runs_dir / "locks"):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(runs_dir / "locks" / recipe.name):
        if (bundle_dir / MANIFEST).is_file():
            manifest = read_manifest(bundle_dir)
            if manifest.about.get("recipe") == recipe.model_dump(mode="json"):
                return manifest
        note = runs_dir / recipe.name / "recipe.json"
        if note.is_file() and note.read_text() != recipe.model_dump_json():
            shutil.rmtree(note.parent)  # of an older recipe
        with (work / "logs" / f"{log}.txt").open("a") as file:
            return run_recipe(
                recipe,
                data_dir=paths.data_dir,
                bundle_dir=bundle_dir,
                runs_dir=runs_dir,
                resume=True,
                device=torch.device(paths.device),
                console=Console(file=file, width=160),
            )


def _loss_in_words(recipe: Recipe) -> str | None:
    loss = recipe.loss
    if loss is None:
        return None
    if loss.network is None:
        return "pixels"
    taps = loss.taps if isinstance(loss.taps, str) else ",".join(loss.taps)
    words = [loss.network, taps, loss.scaling, f"{loss.input_px}px"]
    if loss.precision is not None:
        words.append(loss.precision)
    if loss.feature_weight != 1:
        words.append(f"weight {loss.feature_weight:g}")
    return " ".join(words)


def _measured(share: Share) -> Measured:
    return Measured(correct=share.correct, n=share.n)


def _all_but(wrong: Iterable[str], report: Report) -> Measured:
    """What none of these lists of wrong images holds."""
    images = sorted(from_ranges(report.identity.indices))
    paths = frozenset[int]().union(*(from_ranges(item) for item in wrong))
    return Measured(correct=len(images) - len(paths), n=len(images), wrong=to_marks(paths, images))


def _under(epsilon: float, paper: Report, white: Report) -> UnderThreat:
    levels = {}
    for level in paper.spec.knowledge:
        lines = [line for line in paper.lines if line.knowledge is level]
        fgsm, pgd = (
            _all_but((line.wrong for line in lines if line.attack.name == name), paper)
            for name in ("fgsm", "pgd")
        )
        wrong = [paper.wrong_by_knowledge[level]]
        if level is Knowledge.WHITE_BOX:
            wrong += white.wrong_by_knowledge.values()
        levels[level] = AtLevel(fgsm=fgsm, pgd=pgd, worst=_all_but(wrong, paper))
    at_zero, at_half = white.curve
    return UnderThreat(
        epsilon=epsilon,
        levels=levels,
        white_box_attacks=tuple(line.title for line in white.lines),
        at_zero=_measured(at_zero.defended),
        at_half=_measured(at_half.defended),
    )
