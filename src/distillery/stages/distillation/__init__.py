"""What a student learns from: soft targets, soft losses, and its calibration afterwards."""
