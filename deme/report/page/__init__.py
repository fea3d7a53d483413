"""`deme report`: one self-contained HTML page about a suite or a run. No torch here."""
