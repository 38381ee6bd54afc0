"""What of a checkpoint's files is archived: without secrets, or the weights alone.

``archiver.source`` reads the files through it.
"""
