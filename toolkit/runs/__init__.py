"""A run folder: its files, the data behind it, and how a command finds the weights that it works on."""
