"""Finds and checks the classes of callbacks; ``bus.callback_config`` makes objects of them."""
