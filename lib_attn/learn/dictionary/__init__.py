"""Learning a dictionary: `atoms` condenses what passed, `learner` makes the file's atoms and style bank of it."""
