"""Importers of classifiers that are not trained here."""
