"""Features and units of many recordings, on disk."""
