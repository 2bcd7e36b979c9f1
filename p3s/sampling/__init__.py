"""When and how strongly a subject acts (Eq. 10), and the sampler without a host (DDIM)."""
