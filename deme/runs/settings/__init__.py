"""Settings of commands and option groups: dataclasses that check a configuration once."""
