"""Scripts that are run as they stand, by people and by the tests."""
