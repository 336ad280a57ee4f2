"""Translation between HTTP and the runtime; no decision is made here."""
