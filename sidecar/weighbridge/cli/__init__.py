"""The `weighbridge` command: a module for each group of subcommands."""
