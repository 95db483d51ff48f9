"""Positive and negative compared inside the U-Net while both pass it."""
