"""Tables and figures from finished runs. No torch here."""
