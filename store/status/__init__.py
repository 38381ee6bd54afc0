"""Decides the status of a run. Pure rules without SQLAlchemy; writer and reader import them."""
