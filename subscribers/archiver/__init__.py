"""Copies the checkpoints of runs to an archive, and decides which of them it keeps.

``service`` is the process; it has one ``archiver`` for each run, whose handlers and ``tick`` do all
that changes the run's state. Only ``worker`` is a thread of its own.

- What is known: ``entry`` (a checkpoint), ``run_archive`` (all of a run, and what is published).
- What is done next: ``completeness`` (is it whole?), ``policy`` (is it kept?), ``planning``.
- How it is done: ``tasks`` in the ``worker`` of the run, as many at once as ``slots`` allow;
  ``source`` is the folder that is read, ``files`` changes what is not archived as it is.
- How it went: ``outcomes`` (new states), ``retries`` (when it is tried again).

Only the command line imports it, and of ``policy`` what ranks checkpoints.
"""
