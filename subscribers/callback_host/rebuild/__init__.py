"""What a Trainer hands its callbacks, made again from events. Only the callback host imports it."""
