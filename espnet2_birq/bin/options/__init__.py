"""Option groups shared by commands or too large for a command's file."""
