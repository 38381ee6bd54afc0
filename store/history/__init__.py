"""Reads run history. The dashboard and the CLI import it."""
