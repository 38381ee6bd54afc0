"""The protocol, its clients and the broker. Every room imports it; it imports no other room."""
