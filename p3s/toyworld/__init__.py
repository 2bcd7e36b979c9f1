"""A small world of drawn animals, with models of the real architecture trained on it, in which the method can be seen
to work and be measured in minutes on a CPU. See MODEL_CARD.md."""
