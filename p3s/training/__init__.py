"""Examples in, a trained copy out: losses (Eq. 11-15), steps, state and memory."""
