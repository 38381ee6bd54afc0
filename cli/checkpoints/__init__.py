"""Commands on checkpoints: what a run has, here and in the archive, and how to get it back."""
