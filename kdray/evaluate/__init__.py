"""The evaluation room: what a trained network is worth."""
