"""What a serving process knows of the group that it belongs to.

    supervisor          holds the port, starts the workers, replaces those that die; serves nothing
    worker 0 (leads)    serves; keeps audits, data sets and the choice of versions
    worker 1, 2, ...    serve; hand requests about those things to worker 0

Each worker also listens on a socket in `folder`, which only this user reaches.
"""

from dataclasses import dataclass, field
from pathlib import Path

LEADER = 0


@dataclass(frozen=True)
class Group:
    """One worker's place in the group."""

    index: int
    size: int
    folder: Path
    """Made by the supervisor for this run, and removed at its end."""
    own_key: str = field(repr=False)
    """With which the service asks itself, whichever worker answers."""

    @property
    def leads(self) -> bool:
        """Whether audits, data sets and the choice of versions are kept by this worker."""
        return self.index == LEADER

    @property
    def others(self) -> list[int]:
        """The other workers."""
        return [index for index in range(self.size) if index != self.index]

    @property
    def metrics_dir(self) -> Path:
        """Where all workers count."""
        return self.folder / "metrics"

    def socket_of(self, index: int) -> Path:
        """Where this worker answers the others."""
        return self.folder / f"worker-{index}.sock"

    def pid_file_of(self, index: int) -> Path:
        """Holds the id of this worker's process."""
        return self.folder / f"worker-{index}.pid"
