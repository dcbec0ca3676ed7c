"""Programs that show what batching is for, each in one file."""
