"""The shapes of the built-in backbones, known without torch: stages, input and key maps from the options alone."""
