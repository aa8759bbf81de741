"""Pictures: a result table in, PDF and PNG out. Nothing is measured here."""
