"""Where the objects of an archive are kept: a folder, or an object store."""
