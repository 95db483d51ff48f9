"""Whole evaluations left out, and what the model would have predicted in them forecast from earlier ones."""
