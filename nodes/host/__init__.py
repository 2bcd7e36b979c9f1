"""Everything that touches ComfyUI's internals. Differences between its versions are handled here and nowhere else."""
