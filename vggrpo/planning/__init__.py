"""What a training will take, worked out on the ``meta`` device before anything is loaded: memory and time by phase."""
