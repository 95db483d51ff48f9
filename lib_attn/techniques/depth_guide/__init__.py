"""A depth or normal map is drawn first, and the picture follows it."""
