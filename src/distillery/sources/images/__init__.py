"""Reads folders of images: which files are used, and the class of each."""
