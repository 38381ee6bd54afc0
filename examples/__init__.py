"""Scripts for users, which the tests run unchanged."""
