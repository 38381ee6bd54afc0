"""``python -m lineside.emitter.shipper``: starts the shipper."""

from lineside.emitter.shipper.service import main

if __name__ == "__main__":
    main()
