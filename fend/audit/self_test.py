"""Does the auditor see through bad defences? It is tried on some that are known to be bad.

Each control is an ordinary bundle, made of a given bundle's classifier, that only looks robust.
The audit has to call its report unreliable, or to break it as far as an attacker can who knows the
trick. The given bundle itself, and its classifier alone, are honest: their reports have to be
reliable.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fend.attacks import APGD, PGD, AttackSpec, Gradient, Objective, Square, attack
from fend.audit.executors import executor_for
from fend.audit.plan import line_at
from fend.audit.presets import fitted
from fend.audit.report import Report
from fend.audit.run import audit_report, one_thread
from fend.audit.spec import from_request
from fend.audit.work.attacked import attacked_model
from fend.audit.work.batch import Batch
from fend.audit.work.judge import judge, seeded
from fend.audit.work.opened import AuditJob, OpenAudit
from fend.bundles import Bundle, load_bundle, save_bundle
from fend.models import build
from fend.pipeline import Defence
from fend.threat import Knowledge

MARGIN = 0.05
"""A control is broken when its reported accuracy is at most this above the true one."""

ATTACKS: tuple[AttackSpec, ...] = (
    PGD(steps=20),
    PGD(steps=20, gradient=Gradient(denoiser="identity")),
    APGD(steps=20, objective=Objective(loss="dlr")),
    Square(queries=200),
)
SHARD_SIZE = 25


@dataclass(frozen=True)
class Control:
    """A bundle that looks robust: a denoiser without weights before a classifier, maybe wrapped."""

    name: str
    about: str
    denoiser: str = "identity"
    denoiser_config: Mapping[str, Any] = field(default_factory=dict)
    wrapper: str | None = None
    """The architecture around the classifier."""
    wrapper_config: Mapping[str, Any] = field(default_factory=dict)
    trick: Gradient = field(default_factory=Gradient)
    """How an attacker who knows better takes the gradient, of the classifier without wrapper."""


UNSECURED = Control("unsecured", "the classifier alone: nothing hidden")
"""Built as the controls are, but honest."""

CONTROLS: tuple[Control, ...] = (
    Control(
        "gradient-killer", "answers as before, gradient zero", wrapper="control-gradient-killer"
    ),
    Control(
        "cut-graph",
        "answers as before, no gradient at all",
        wrapper="control-gradient-killer",
        wrapper_config={"cut": True},
    ),
    Control("nan-gradient", "answers as before, gradient NaN", wrapper="control-nan-gradient"),
    Control("scaled-logits", "logits times 10,000", wrapper="control-scaled-logits"),
    Control(
        "one-bit",
        "each pixel rounded to black or white",
        denoiser="bit-depth",
        denoiser_config={"bits": 1},
        trick=Gradient(denoiser="identity"),
    ),
    Control(
        "random-resize",
        "shrunk and moved at random",
        denoiser="control-random-resize",
        trick=Gradient(samples=5),
    ),
)


@dataclass(frozen=True)
class ControlResult:
    """What the auditor made of one model."""

    name: str
    about: str
    report: Report
    true_accuracy: float | None
    """Accuracy of a control under an attacker who knows the trick; None: the model is honest."""

    @property
    def honest(self) -> bool:
        """Whether the report has to be reliable."""
        return self.true_accuracy is None

    @property
    def passed(self) -> bool:
        """No control escaped, and no honest model was accused."""
        if self.true_accuracy is None:
            return self.report.reliable is True
        broken = self.report.worst_case.accuracy <= self.true_accuracy + MARGIN
        return self.report.reliable is False or broken

    @property
    def failed_checks(self) -> tuple[str, ...]:
        """The sanity checks that the model did not pass."""
        return tuple(line.name for line in self.report.sanity if line.passed is False)


def self_test(
    bundle_dir: Path,
    data_dir: Path | None,
    *,
    dataset: str = "mnist:test",
    samples: int = 100,
    epsilon: float | str = 0.2,
    workers: int = 1,
    controls: Sequence[Control] = (UNSECURED, *CONTROLS),
    on_start: Callable[[str], None] = lambda _: None,
) -> Iterator[ControlResult]:
    """Audit the bundle at `bundle_dir` as it is, and every one of `controls` made of it.

    `epsilon` is in L-inf on the pixel scale, a number or such as "8/255". `on_start` is told the
    name of each model first.

    Raises:
        Unavailable, Invalid: as audits do.
    """
    bundle = load_bundle(bundle_dir)
    spec = from_request(
        {
            "model": bundle.manifest.name,
            "dataset": dataset,
            "samples": samples,
            "threat": {"epsilon": epsilon},
            "knowledge": (Knowledge.WHITE_BOX, Knowledge.QUERY),
            "attacks": fitted(ATTACKS, len(bundle.labels)),
            "sanity_samples": samples,
            "examples": 0,
            "shard_size": SHARD_SIZE,
        }
    )
    on_start(bundle.manifest.name)
    executor = executor_for(workers)
    report = audit_report(AuditJob(spec, bundle_dir, data_dir), executor)
    yield ControlResult(bundle.manifest.name, "the bundle as it is", report, None)
    with TemporaryDirectory(prefix="fend-self-test-") as made:
        for control in controls:
            on_start(control.name)
            folder = save_control(bundle, control, Path(made))
            job = AuditJob(spec.model_copy(update={"model": control.name}), folder, data_dir)
            report = audit_report(job, executor)
            true = None if control is UNSECURED else _true_accuracy(job.open(), bundle, control)
            yield ControlResult(control.name, control.about, report, true)


def save_control(bundle: Bundle, control: Control, folder: Path) -> Path:
    """Write the bundle `folder`/<the control's name>, with the classifier of `bundle`."""
    content = bundle.manifest.content
    architecture, config = content.classifier.architecture, content.classifier.config
    classifier = bundle.defence.classifier
    if control.wrapper is not None:
        inner = {"architecture": architecture, "config": config}
        architecture, config = control.wrapper, {"inner": inner, **control.wrapper_config}
        classifier = build(architecture, config)
        classifier.get_submodule("inner").load_state_dict(bundle.defence.classifier.state_dict())
    denoiser_config = dict(control.denoiser_config)
    save_bundle(
        folder / control.name,
        name=control.name,
        input_spec=content.input,
        labels=content.labels,
        denoiser=(control.denoiser, denoiser_config, build(control.denoiser, denoiser_config)),
        classifier=(architecture, config, classifier),
        suspicion=content.suspicion,
        about={"summary": f"A known-bad control, not a defence: {control.about}."},
        card=f"# {control.name}\n\nA known-bad control, not a defence: {control.about}.\n",
    )
    return folder / control.name


def _true_accuracy(opened: OpenAudit, bundle: Bundle, control: Control) -> float:
    """What is left of the control by an attack that goes around its trick.

    The attack works on the classifier without its wrapper; the control itself is asked only what
    it answers in the end.
    """
    spec = opened.spec
    defence = opened.bundle.defence
    batch = Batch.of(opened, tuple(opened.image_set.sample(spec.samples, spec.seed).tolist()))
    honest = Defence(defence.denoiser, bundle.defence.classifier).eval()
    line = line_at(PGD(steps=50, gradient=control.trick), Knowledge.WHITE_BOX, opened.randomised)
    with one_thread(), seeded(spec.seed, "self-test", opened.device):
        held = batch.right(judge(defence, batch.images, opened.randomised))
        result = attack(
            line.attack,
            attacked_model(honest, None, line),
            batch.images,
            batch.labels,
            spec.threat,
            sample_ids=batch.indices,
        )
        held &= batch.right(judge(defence, result.adversarial, opened.randomised))
    return len(held) / len(batch.indices)
