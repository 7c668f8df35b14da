"""Decides whether a student becomes the champion."""
