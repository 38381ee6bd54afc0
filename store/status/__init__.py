"""Decides how a run stands. Pure rules without SQLAlchemy, for writer and reader."""
