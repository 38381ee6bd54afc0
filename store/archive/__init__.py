"""Copies of checkpoints in a folder or an object store: written whole, read back, restored.

It needs neither the run history nor a running service: what is in the archive is all there is to
know. Archives in S3, GCS and Azure need the extra ``archive``; a folder needs nothing.
"""
