"""Rows of an audit made by hand: in order and robust, until a test breaks something.

A fixture (`audit_rows`, in conftest) hands the class out.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fend.attacks import FGSM, PGD, AttackSpec
from fend.audit import AuditSpec, Report, Row, Source, build_report
from fend.audit.levels import pairs
from fend.audit.rows import (
    AttackRow,
    CleanRow,
    CostRow,
    CurveRow,
    ExampleRow,
    Probe,
    ProbeRow,
    ServedRow,
    SkippedRow,
)
from fend.threat import Knowledge

WHITE, GREY = Knowledge.WHITE_BOX, Knowledge.GREY_BOX
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Key = tuple[Knowledge, int]


class AuditRows:
    """The rows of an audit of `n` images, of which all hold."""

    def __init__(
        self,
        attacks: Sequence[AttackSpec] = (FGSM(), PGD(steps=20)),
        knowledge: Sequence[Knowledge] = (GREY, WHITE),
        *,
        n: int = 100,
        probed: bool = True,
        **fields: Any,
    ) -> None:
        self.spec = AuditSpec(model="mnist", knowledge=knowledge, attacks=attacks, **fields)
        self.source = Source(
            model="mnist", model_version="sha256:" + "0" * 64, dataset="made|up",
            dataset_digest="sha256:" + "1" * 64, label_names=NAMES, fend_version="0",
            torch_version="0", device="cpu",
        )  # fmt: skip
        self.n = n
        self.rows: list[Row] = [
            CleanRow(
                index=i, label=i % 10, answer=i % 10, confidence=0.9, undefended_answer=i % 10,
                undefended_confidence=0.8,
            )
            for i in range(n)
        ]  # fmt: skip
        for knowledge_, attack in pairs(self.spec.knowledge, self.spec.attacks):
            self.rows += [self._attack_row(knowledge_, attack, i) for i in range(n)]
            self.rows += [
                CostRow(shard=shard, knowledge=knowledge_, attack=attack, forward_passes=5,
                        backward_passes=3)
                for shard in range(2)
            ]  # fmt: skip
        if probed:
            self.rows += [ProbeRow(probe=p, index=i, passed=True) for p in Probe for i in range(n)]
        for epsilon in self.spec.epsilons:
            self.rows += [
                CurveRow(index=i, label=i % 10, epsilon=epsilon, answer=i % 10,
                         undefended_answer=i % 10)
                for i in range(n)
            ]  # fmt: skip

    def _attack_row(self, knowledge: Knowledge, attack: int, index: int) -> AttackRow:
        return AttackRow(
            index=index, label=index % 10, knowledge=knowledge, attack=attack,
            attack_name=self.spec.attacks[attack].name, attacked_model_fooled=False,
            answer=index % 10, confidence=0.5, undefended_answer=(index + 1) % 10,
            undefended_confidence=0.5, distance=0.2, seen_fooled=False, zero_gradient=False,
            broken_gradient=False, late_gain=0.02,
        )  # fmt: skip

    def change(self, kind: type[Row], indices: Iterable[int], **fields: Any) -> "AuditRows":
        """Other values in rows of a kind. `key` (a line), `probe` and `epsilon` choose some; a
        value may be a function of the row."""
        key = fields.pop("key", None)
        chosen = {name: fields.pop(name) for name in ("probe", "epsilon") if name in fields}
        if key is not None:
            chosen |= {"knowledge": key[0], "attack": key[1]}
        wanted = set(indices)
        for place, row in enumerate(self.rows):
            if type(row) is not kind or row.index not in wanted:
                continue
            if all(getattr(row, name) == value for name, value in chosen.items()):
                new = {name: f(row) if callable(f) else f for name, f in fields.items()}
                self.rows[place] = row.model_copy(update=new)
        return self

    def breaks(self, key: Key, indices: Iterable[int]) -> "AuditRows":
        """An attack fools the pipeline on these images."""
        return self.change(
            AttackRow, indices, key=key, answer=wrong_answer, attacked_model_fooled=True,
            seen_fooled=True, late_gain=None,
        )  # fmt: skip

    def errs(self, indices: Iterable[int]) -> "AuditRows":
        """The pipeline is wrong on these images as they are."""
        return self.change(CleanRow, indices, answer=wrong_answer)

    def bends(self, epsilon: float, indices: Iterable[int]) -> "AuditRows":
        """At a point of the curve the pipeline is wrong on these images."""
        return self.change(CurveRow, indices, epsilon=epsilon, answer=wrong_answer)

    def skips(self, key: Key, indices: Iterable[int]) -> "AuditRows":
        """A cascade leaves these images out of a line."""
        gone = set(indices)
        self.rows = [
            SkippedRow(index=row.index, label=row.label, knowledge=key[0], attack=key[1])
            if isinstance(row, AttackRow) and (row.knowledge, row.attack) == key
            and row.index in gone else row
            for row in self.rows
        ]  # fmt: skip
        return self

    def fails(self, probe: Probe, indices: Iterable[int]) -> "AuditRows":
        """A probe fails on these images."""
        return self.change(ProbeRow, indices, probe=probe, passed=False)

    def shows(self, key: Key, indices: Iterable[int]) -> "AuditRows":
        """Pictures of these images."""
        self.rows += [
            ExampleRow(index=i, knowledge=key[0], attack=key[1], clean_png=png(i),
                       adversarial_png=png(i + 50), denoised_png=png(i))
            for i in indices
        ]  # fmt: skip
        return self

    def serves(self, key: Key, indices: Iterable[int], other: Iterable[int]) -> "AuditRows":
        """The service's answers on these images, another one than the audit's on `other`."""
        differ = set(other)
        self.rows += [
            ServedRow(index=i, label=i % 10, knowledge=key[0], attack=key[1], answer=i % 10,
                      served_answer=(i + (i in differ)) % 10)
            for i in indices
        ]  # fmt: skip
        return self

    def report(self) -> Report:
        """What the rows make."""
        return build_report(self.spec, self.source, self.rows)

    def verdicts(self) -> dict[str, bool | None]:
        """What became of each sanity check."""
        return {line.name: line.passed for line in self.report().sanity}

    def failed(self) -> set[str]:
        """The sanity checks that failed."""
        return {name for name, passed in self.verdicts().items() if passed is False}


def wrong_answer(row: Any) -> int:
    return (row.label + 1) % 10


def png(grey: int) -> str:
    """A picture of one grey, 8-bit, in base64."""
    written = io.BytesIO()
    Image.fromarray(np.full((4, 4), grey, np.uint8)).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()
