"""kdray: knowledge distillation experiments on Ray, one YAML each."""

__version__ = "0.1.0"
