"""HTTP itself: problem documents, request bounds, strict JSON, static files."""
