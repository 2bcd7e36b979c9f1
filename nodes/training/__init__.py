"""Train P3S: its inputs, what they are turned into, the run, and where the result is kept."""
