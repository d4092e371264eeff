"""From an experiment to its stages, and from its stages to a finished run."""
