"""One engine, asked and watched while it works."""
