"""How alembic gets at the database: on the connection, and in the transaction, of the service."""

from alembic import context

from service.state.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the service's own transaction is around everything
)
context.run_migrations()
