"""The dashboard process: pages and REST API over the run history. Only the CLI imports it."""
