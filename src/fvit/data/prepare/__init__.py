"""Writing any source into tar shards, and checking what was written."""
