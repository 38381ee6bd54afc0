"""Reads run history. The dashboard, the CLI and subscribers import it."""
