"""The files that the training process and the shipper share. Never imports zmq."""
