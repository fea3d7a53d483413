"""Settings of commands and option groups: dataclasses that a resolved configuration is checked against once."""
