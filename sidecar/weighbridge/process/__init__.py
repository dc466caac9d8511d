"""What any of our processes needs: a log, loops that go on, files that are watched."""
