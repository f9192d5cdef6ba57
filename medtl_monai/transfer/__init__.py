"""Transfer: a model's stages, its weights with a coverage report, and the freeze policy applied to it."""
