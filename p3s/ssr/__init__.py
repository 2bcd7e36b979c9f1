"""SSR-Encoder (Zhang et al., CVPR 2024): the embedding of a subject that a query selects, and its attention."""
