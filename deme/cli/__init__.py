"""The command line: words to a command, help, exit codes."""
