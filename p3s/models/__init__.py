"""Whole text-to-image models behind one protocol, and the method on them."""
