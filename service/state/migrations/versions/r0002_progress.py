"""When a shard was finished: what says of an audit since when nothing moves."""

import sqlalchemy as sa
from alembic import op

from service.state.tables import UtcTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Of the shards that are there it is not known."""
    op.add_column("shards", sa.Column("finished_at", UtcTime))
