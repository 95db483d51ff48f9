"""Sharp nearby, pooled far away: faster self-attention for large pictures."""
