"""Searches and matrices: many trainings of one experiment side by side, on Ray Tune."""
