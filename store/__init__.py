"""Run history: schema, migrations, writes and reads."""
