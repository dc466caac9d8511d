"""The console: one page of the admin port, live by server-sent events."""
