"""Which version of each model somebody chose to serve; a restart keeps it."""

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError

from service.state.database import Database
from service.state.tables import active_versions


class Choice(BaseModel):
    """What somebody decided for a model."""

    model_config = ConfigDict(frozen=True)

    active: str | None
    """The version that serves; None: unloaded."""
    previous: str | None = None
    """The version that served before: where a roll back goes."""
    unloaded: str | None = None
    """Where none is active: the version that served last."""


class Choices:
    """All decisions; a model without one serves what is in its folder itself. The methods block,
    and raise StateUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> dict[str, Choice]:
        """All decisions, by model, but those that cannot be read."""
        with self._database.reading() as db:
            rows = db.execute(sa.select(active_versions)).mappings().all()
        found = {}
        for row in rows:
            try:
                found[str(row["model"])] = Choice(**row)
            except ValidationError as error:
                self._database.skip("active version", str(row["model"]), error)
        return found

    def write(self, name: str, choice: Choice) -> None:
        """Keep the decision for one model."""
        values = choice.model_dump()
        with self._database.writing() as db:
            db.execute(
                self._database.insert(active_versions)
                .values(model=name, **values)
                .on_conflict_do_update(index_elements=["model"], set_=values)
            )
