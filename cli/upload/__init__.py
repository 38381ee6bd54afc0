"""``lineside upload``: sends recorded runs to trackers. The command line imports it."""
