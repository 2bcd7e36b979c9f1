"""The trained subject and its file."""
