"""Translation between HTTP and what does the work; no decision is made here."""
