"""The HTML pages and their contents."""
