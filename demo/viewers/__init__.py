"""What a run looks like: the stage with its one clock, and the parts that it is built of."""
