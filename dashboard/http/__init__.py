"""HTTP basics: problem documents, strict JSON, static files and limits."""
