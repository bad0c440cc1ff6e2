"""Decisions as pure functions: which cuts, in which order, at which times."""
