"""Keys, values, queries and features of self-attention mixed in from another source."""
