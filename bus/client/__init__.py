"""What a process uses to write to and read from the broker: producer, reader, command sender."""
