"""Files, tensors, processes, errors: what every layer stands on."""
