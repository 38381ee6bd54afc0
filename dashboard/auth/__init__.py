"""Who may ask: tokens, login, origins and addresses."""
