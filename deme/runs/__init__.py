"""Run directories, suites, configuration, tracking. No torch here."""
