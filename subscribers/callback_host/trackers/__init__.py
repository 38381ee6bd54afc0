"""What each tracker needs so that its callback logs the same run, once, in another process."""
