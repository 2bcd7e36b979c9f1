"""Clicks on a photo become masks and a clean reference (Eq. 1-3)."""
