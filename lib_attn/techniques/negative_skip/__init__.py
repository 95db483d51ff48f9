"""The negative computed as little as possible, and its words as a penalty in cross-attention."""
