"""Offline work: scenes to learn from, and the models and files learned from them."""
