"""What every part runs on: user errors, device and threads, seeds, run folders, checkpoints, the training loop."""
