"""The admin port: its pages, the console, the metrics, the status."""
