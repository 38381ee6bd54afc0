"""Stands in for Azure ML's package, whose service needs a job of Azure."""
