"""Validation: which records may be believed, and whether each book is right."""
