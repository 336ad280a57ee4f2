"""An audit that goes on where it was stopped: the rows of each shard are kept until it is done."""

from pathlib import Path

import torch

from fend.audit import (
    ROWS,
    AuditSpec,
    Report,
    Row,
    build_report,
    open_audit,
    plan,
    run_shard,
    source_of,
)
from fend.files import replace_atomically


def audited(
    spec: AuditSpec,
    bundle_dir: Path,
    data_dir: Path | None,
    device: torch.device,
    folder: Path,
) -> Report:
    """The report of `spec`. `folder` keeps the finished shards of this very audit.

    Raises:
        FendError: as `fend.audit.open_audit`.
    """
    opened = open_audit(spec, bundle_dir, data_dir, device)
    rows: list[Row] = []
    for shard in plan(spec, opened.image_set):
        path = folder / f"shard-{shard.number:05d}.json"
        if not path.is_file():
            replace_atomically(path, ROWS.dump_json(run_shard(opened, shard)).decode())
        rows += ROWS.validate_json(path.read_bytes())
    return build_report(spec, source_of(opened), rows)
