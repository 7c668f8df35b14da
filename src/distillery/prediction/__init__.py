"""Answers for files of new rows or folders of new images, from an exported student."""
