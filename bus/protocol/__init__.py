"""The codec and the messages: bytes in, values out.

No sockets and no files; every process may import it.
"""
