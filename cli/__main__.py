"""``python -m lineside.cli``: how our own processes start one another."""

from lineside.cli.main import main

main()
