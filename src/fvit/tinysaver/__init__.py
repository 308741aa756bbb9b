"""TinySaver: a tiny model classifies every image, and a large one those that the tiny one is unsure of."""
