"""Curves of metrics and timing, from selecting their pieces to reading and downsampling them."""
