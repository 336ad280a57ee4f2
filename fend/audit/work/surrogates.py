"""The attacker's own model, for the levels at which the audited one's weights are not known.

It is another bundle: named in the spec, or made once for this version of the model and kept.
"""

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from pathlib import Path

from fend.audit.levels import NEED_SURROGATE
from fend.audit.spec import AuditSpec, spec_invalid
from fend.bundles import MANIFEST, Manifest, read_manifest
from fend.bundles.versions import model_folders, unchosen_version, version_folders
from fend.errors import Invalid

ENTRY_POINTS = "fend.surrogates"
"""Group whose entry `train` makes a surrogate: `(bundle_dir, out_dir, *, data_dir, seed) -> None`.
It writes to `out_dir`, whole or not at all, a bundle for the same images and labels."""

SEED = 1_000_000
"""The seed of every surrogate, so that audits with different seeds share it. Recipes count theirs
from 0."""


def needs_surrogate(spec: AuditSpec) -> bool:
    """Whether a level of `spec` attacks a model of the attacker's own."""
    return any(knowledge in NEED_SURROGATE for knowledge in spec.knowledge)


def check_surrogate(
    spec: AuditSpec, manifest: Manifest, models_dir: Path, surrogates_dir: Path | None
) -> Path | None:
    """The surrogate's folder; None where none is needed, or one has still to be made.

    Cheap: nothing is made and no weights are read, so it can refuse a request at once.

    Raises:
        Invalid (`surrogate_missing`): there is none, and none can be made.
        Invalid (`audit_spec_invalid`), Unavailable: the named one cannot stand in for the model.
    """
    if not needs_surrogate(spec):
        return None
    if spec.surrogate is not None:
        model_dir = models_dir / spec.surrogate
        if not version_folders(model_dir):
            there = [path.name for path in model_folders(models_dir) if version_folders(path)]
            others = [name for name in there if name != spec.model]
            raise Invalid(
                f"surrogate: there is no model {spec.surrogate!r} in {models_dir.name}; "
                f"others there: {', '.join(others) or '(none)'}",
                code="surrogate_missing",
            )
        folder = unchosen_version(model_dir)
        _check_fit(manifest, read_manifest(folder))
        return folder
    if surrogates_dir is not None and (_kept_at(manifest, surrogates_dir) / MANIFEST).is_file():
        return _kept_at(manifest, surrogates_dir)
    if surrogates_dir is None or _maker() is None:
        raise Invalid(
            f"{' and '.join(k for k in spec.knowledge if k in NEED_SURROGATE)} attack a model of "
            "the attacker's own: name another model in `surrogate`, install the training extra "
            "(pip install 'fend[train]'), which makes one, or leave these levels out of "
            "`knowledge`",
            code="surrogate_missing",
        )
    return None


def obtain_surrogate(
    spec: AuditSpec,
    bundle_dir: Path,
    manifest: Manifest,
    *,
    models_dir: Path,
    surrogates_dir: Path | None,
    data_dir: Path | None,
    on_making: Callable[[Path], None] = lambda _: None,
) -> Path | None:
    """As `check_surrogate`, but makes the surrogate where that is needed: minutes, the first time.

    `on_making` is called with the folder before that. It trains another classifier and denoiser by
    the recipe of the model, with another seed.

    Raises:
        as `check_surrogate`, and whatever training raises.
    """
    folder = check_surrogate(spec, manifest, models_dir, surrogates_dir)
    if folder is not None or not needs_surrogate(spec):
        return folder
    maker = _maker()
    assert maker is not None, "check_surrogate has looked for it"
    assert surrogates_dir is not None, "check_surrogate has looked for it"
    folder = _kept_at(manifest, surrogates_dir)
    on_making(folder)
    maker.load()(bundle_dir, folder, data_dir=data_dir, seed=SEED)
    _check_fit(manifest, read_manifest(folder))
    return folder


def _kept_at(manifest: Manifest, surrogates_dir: Path) -> Path:
    """One folder for each version of a model."""
    digest = manifest.version.removeprefix("sha256:")
    return surrogates_dir / f"{manifest.name}-{digest[:16]}"


def _maker() -> EntryPoint | None:
    """What makes surrogates, where all that its extra (of the same name) asks for is installed."""
    entry = next(iter(entry_points(group=ENTRY_POINTS, name="train")), None)
    if entry is None or entry.dist is None:
        return None
    for requirement in entry.dist.requires or []:
        wanted, _, marker = requirement.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", wanted)
        if f"extra == '{entry.name}'" in marker.replace('"', "'") and name is not None:
            try:
                distribution(name[0])
            except PackageNotFoundError:
                return None
    return entry


def _check_fit(audited: Manifest, surrogate: Manifest) -> None:
    """Raises Invalid (`audit_spec_invalid`) where the surrogate sees other images or classes, or
    is no other."""
    theirs, ours = surrogate.content, audited.content
    shape = (ours.input.channels, ours.input.height_px, ours.input.width_px)
    found = (theirs.input.channels, theirs.input.height_px, theirs.input.width_px)
    if found != shape:
        raise spec_invalid(
            f"surrogate: {surrogate.name} takes images of {found} (channels, height, width), "
            f"but {audited.name} takes {shape}"
        )
    if theirs.labels != ours.labels:
        raise spec_invalid(
            f"surrogate: the classes of {surrogate.name} are not those of {audited.name}, "
            "in the same order"
        )
    if theirs.classifier.sha256 == ours.classifier.sha256:
        raise spec_invalid(
            f"surrogate: {surrogate.name} has the very classifier of {audited.name}, which an "
            "attacker without its weights has not; name a model with a classifier of its own"
        )
