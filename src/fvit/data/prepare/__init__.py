"""fvit-prepare: write a source to tar shards, verify them, and measure how fast images load."""
