"""Access: tokens, login, callers, and checks of origin and address."""
